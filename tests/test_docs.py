"""The documentation is whole: the site builds without a warning, and docs/cli.md says what `--help` says."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from docs import make_cli
from tests.paths import ROOT
from videoreasoner.errors import RowError
from videoreasoner.rows import Row, read_rows
from videoreasoner.tasks import Task


def test_the_command_line_page_holds_the_help_of_every_command() -> None:
    assert make_cli.PAGE.read_text(encoding="utf-8") == make_cli.page(), "run: python docs/make_cli.py"
    assert "## videoreasoner train grpo\n" in make_cli.page()


def test_the_command_line_page_does_not_depend_on_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = make_cli.help_text(("ask",))
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert make_cli.help_text(("ask",)) == expected


# Without --quiet, which would hide warnings from --strict as well.
def test_the_site_builds_strictly_and_nothing_in_it_needs_the_network(tmp_path: Path) -> None:
    # A proxy that refuses: whoever asks the network while building fails.
    refused = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        env={**os.environ, **refused, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    page = (tmp_path / "site" / "reference" / "vocabulary.html").read_text(encoding="utf-8")
    assert 'id="videoreasoner.spans.Span.overlaps"' in page
    for file in (tmp_path / "site").rglob("*.html"):
        text = file.read_text(encoding="utf-8")
        assert 'src="http' not in text, file
        assert 'rel="stylesheet" href="http' not in text, file


def test_the_map_for_contributors_names_places_that_exist() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = page.split("## To change X, open Y")[1].split("\n## ")[0]
    places = re.findall(r"`([\w/]+(?:\.py|/))`", "".join(line for line in table.splitlines() if line.startswith("| ")))
    assert len(places) > 20
    missing = [p for p in places if not (ROOT / "src/videoreasoner" / p).exists() and not (ROOT / p).exists()]
    assert not missing


def test_every_option_in_a_command_of_the_docs_exists() -> None:
    checked, help_text = 0, cache(make_cli.help_text)
    for page in [
        ROOT / "README.md",
        *sorted((ROOT / "docs").glob("*.md")),
        *sorted((ROOT / "recipes").rglob("*.yaml")),
    ]:
        if page == make_cli.PAGE:
            continue
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        for line in re.findall(r"^[ #$]*(?:[\w./-]+ .* -m )?videoreasoner ([a-z].*)", text, flags=re.M):
            words = line.split("   #")[0].split()
            is_group = words[0] in ("train", "eval", "synthetic") and not words[1].startswith("-")
            path = tuple(words[:2]) if is_group else (words[0],)
            known = set(re.findall(r"--?[\w-]+", help_text(path)))
            unknown = [w for w in re.findall(r"(?<= )--?[a-z][\w-]*", line) if w not in known]
            assert not unknown, f"{page.name}: videoreasoner {line}"
            checked += 1
    assert checked > 40


def test_every_row_of_the_data_page_is_read(tmp_path: Path) -> None:
    page = (ROOT / "docs/data.md").read_text(encoding="utf-8")
    read: dict[str, list[Row]] = {}
    lines, array = re.findall(r"```json\n(.*?)```", page, flags=re.S)
    [table] = re.findall(r"```csv\n(.*?)```", page, flags=re.S)
    for name, text in {"lines.jsonl": lines, "array.json": array, "table.csv": table}.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        rows = list(read_rows(tmp_path / name))
        assert not [str(row) for row in rows if isinstance(row, RowError)]
        read[name] = [row for row in rows if isinstance(row, Row)]
    assert set().union(*(row.tasks() for row in read["lines.jsonl"])) == set(Task)
    known = {field for row in read["lines.jsonl"] for field in row.model_fields_set}
    assert set(Row.model_fields) < known, "a field without an example"
    assert known - set(Row.model_fields) == {"annotator"}
    assert read["table.csv"][2].options == ["a|b", "a-b"]
    assert [len(row.event or ()) for row in read["table.csv"]] == [1, 2, 0]
    described = set(re.findall(r"^\| `(\w+)` \|", page.split("## The fields")[1].split("\n## ")[0], flags=re.M))
    assert described == set(Row.model_fields)


def test_every_message_of_the_troubleshooting_page_is_one_of_the_package() -> None:
    known: list[str] = []
    for file in (ROOT / "src/videoreasoner").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                known.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                known.append("".join(p.value if isinstance(p, ast.Constant) else "\0" for p in node.values))
    page = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
    quoted = re.findall(r"^\| `([^`]+)` \|", page, flags=re.M)
    assert len(quoted) > 25
    for message in quoted:
        pattern = re.compile(".*".join(re.escape(part) for part in re.split(r" ?\.\.\. ?", message)), re.S)
        assert any(pattern.search(text) for text in known), f"no message of the package is like: {message}"
