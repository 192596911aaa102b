"""Pages in headless Chromium, and what a person would find there."""

from __future__ import annotations

import functools
import html
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_MEASURE = """
function luminance(rgb) {
  const [r, g, b] = rgb.map(v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}
function color(text) { return (text.match(/[\\d.]+/g) || [0, 0, 0, 0]).map(Number); }
function behind(element) {
  for (let e = element; e; e = e.parentElement) {
    const found = color(getComputedStyle(e).backgroundColor);
    if (found.length < 4 || found[3] > 0) return found.slice(0, 3);
  }
  return [255, 255, 255];
}
function contrast(element) {
  const style = getComputedStyle(element);
  const front = color(element.namespaceURI.endsWith('svg') ? style.fill : style.color).slice(0, 3);
  const [low, high] = [luminance(front), luminance(behind(element))].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
}
function measure(frame) {
  const page = frame.contentDocument, root = page.documentElement;
  const all = [...page.body.querySelectorAll('*')];
  const says = e => [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim());
  const texts = all.filter(e => says(e) && e.getClientRects().length && !['SCRIPT', 'STYLE'].includes(e.tagName));
  const shown = e => { const r = e.getBoundingClientRect(); return r.width > 0 && r.height > 0; };
  return {
    name: frame.dataset.name,
    width: root.clientWidth,
    scroll_width: root.scrollWidth,
    sticking_out: texts.filter(e => e.getBoundingClientRect().right > root.clientWidth + 1).map(e => e.outerHTML),
    text: page.body.innerText,
    headings: [...page.querySelectorAll('h1, h2')].filter(shown).map(e => e.innerText.trim()),
    images: page.images.length,
    bad_images: [...page.images].filter(i => !i.naturalWidth || !shown(i) || !i.alt).length,
    unlabelled: [...page.querySelectorAll('svg[role=img]')].filter(e => !e.getAttribute('aria-label')).length,
    scripts: page.scripts.length,
    handlers: all.filter(e => e.getAttributeNames().some(n => n.startsWith('on'))).length,
    least_contrast: Math.min(...texts.map(contrast)),
    background: behind(page.body),
    loaded: frame.contentWindow.performance.getEntriesByType('resource')
      .map(e => e.name.slice(0, 40)).filter(n => !n.startsWith('data:')),
  };
}
onload = () => {
  const found = [...document.querySelectorAll('iframe')].map(measure);
  document.getElementById('found').textContent = JSON.stringify(found);
};
"""


@dataclass
class Visit:
    """What was found: one dictionary for each page and width, what was asked of the server, what the console said."""

    found: list[dict[str, Any]] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    console: list[str] = field(default_factory=list)


def chromium() -> str:
    """The path of the browser; skips the test where there is none."""
    for name in _NAMES:
        path = shutil.which(name)
        if path is not None:
            return path
    pytest.skip("no Chromium on this machine; on Debian, apt-get install chromium")


def visit(folder: Path, pages: Mapping[str, str], widths: Sequence[int], *flags: str) -> Visit:
    """Open pages, each at each width, from a server of our own, and look around in them."""
    browser = chromium()
    frames = []
    for name, page in pages.items():
        (folder / f"{name}.html").write_text(page, encoding="utf-8")
        frames += [
            f'<iframe data-name="{name}" src="{name}.html" style="width:{w}px;height:900px"></iframe>' for w in widths
        ]
    harness = f'<!doctype html><link rel="icon" href="data:,">{"".join(frames)}<pre id="found"></pre>'
    (folder / "harness.html").write_text(f"{harness}<script>{_MEASURE}</script>", encoding="utf-8")
    result = Visit()

    class Handler(SimpleHTTPRequestHandler):
        def log_request(self, code: Any = "-", size: Any = "-") -> None:
            result.requests.append(self.path)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    options = (
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
        "--disable-background-networking", "--hide-scrollbars", "--enable-logging=stderr", "--dump-dom",
        f"--user-data-dir={folder / 'profile'}", "--window-size=1600,1000", *flags,
    )  # fmt: skip
    try:
        url = f"http://127.0.0.1:{server.server_address[1]}/harness.html"
        done = subprocess.run([browser, *options, url], capture_output=True, text=True, timeout=200, check=True)
    finally:
        server.shutdown()
        server.server_close()
    [found] = re.findall(r'<pre id="found">(.*?)</pre>', done.stdout, flags=re.S)
    result.found = json.loads(html.unescape(found))
    result.console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return result
