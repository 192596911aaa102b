"""What is installed and whether it works: versions, devices, optional parts, and one real question.

A broken part is reported, and the other parts are still examined.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shlex
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from videoreasoner.version import __version__

if TYPE_CHECKING:
    from videoreasoner.inference.reasoner import Reasoner

_PARTS = {"torch": "torch", "transformers": "transformers", "PyAV": "av", "numpy": "numpy", "Pillow": "PIL"}
# Optional part, as in pyproject.toml -> the module that it installs, and what it is for.
EXTRAS = {
    "retrieval": ("open_clip", "keyframes by open_clip encoders, such as PE-Core"),
    "lora": ("peft", "training low-rank adapters (LoRA, QLoRA)"),
    "datasets": ("datasets", "training rows from the Hugging Face hub"),
    "plots": ("matplotlib", "heat maps and plots of results"),
}


@dataclass(frozen=True)
class Finding:
    """One thing that was examined.

    Attributes:
        name: of the part, device or check.
        text: its version or state in one line, or what is wrong with it.
        ok: whether it works. A part that is only not installed is not broken.
        install: the command that installs it, when it is missing or broken.
    """

    name: str
    text: str
    ok: bool = True
    install: str | None = None


@dataclass(frozen=True)
class Diagnosis:
    """All findings. `ok` is the result of the self-check, which uses every part that has to work."""

    versions: list[Finding]
    devices: list[Finding]
    extras: list[Finding]
    self_check: Finding

    @property
    def ok(self) -> bool:
        return self.self_check.ok

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return {"ok": self.ok, **asdict(self)}


def diagnose(load: Callable[[], Reasoner]) -> Diagnosis:
    """Examine everything. Takes about ten seconds, most of it for loading torch.

    Args:
        load: gives a reasoner with the shipped model.
    """
    return Diagnosis(versions(), devices(), extras(), self_check(load))


def versions() -> list[Finding]:
    """This package, Python, and the libraries that matter."""
    python = f"{platform.python_version()} ({sys.executable}), {platform.system()} {platform.machine()}"
    found = [Finding("videoreasoner", __version__), Finding("Python", python)]
    found += [_examine(name, partial(_version, module)) for name, module in _PARTS.items()]
    return [*found, _examine("FFmpeg", _ffmpeg)]


def devices() -> list[Finding]:
    """Processor and memory, and each accelerator that torch can use."""
    processor = _examine("CPU", _processor)
    # Without a torch that can be imported, no accelerator can be asked for.
    return [processor, *_accelerators()] if processor.ok else [processor]


def extras() -> list[Finding]:
    """The optional parts, and how to install those that are missing."""
    found = []
    for name, (module, purpose) in EXTRAS.items():
        if importlib.util.find_spec(module) is None:
            found.append(Finding(name, f"not installed; {purpose}", install=install_command(name)))
            continue
        finding = _examine(name, partial(_version, module), f"{module} ")
        found.append(finding if finding.ok else Finding(name, finding.text, False, install_command(name)))
    return found


def install_command(extra: str) -> str:
    """The command that installs an optional part into this Python."""
    command = f'{shlex.quote(sys.executable)} -m pip install "videoreasoner[{extra}]"'
    try:
        # Without it, pip may replace a torch that was built for this machine's GPU.
        return f'{command} "torch=={importlib.metadata.version("torch").split("+")[0]}"'
    except importlib.metadata.PackageNotFoundError:
        return command


def self_check(load: Callable[[], Reasoner]) -> Finding:
    """Make a video, ask the shipped model about it, and compare the answer with the truth."""
    started = time.perf_counter()
    finding = _examine("self-check", partial(_ask, load))
    return Finding(finding.name, f"{finding.text} ({time.perf_counter() - started:.1f} s)", finding.ok)


def _ask(load: Callable[[], Reasoner]) -> str:
    from videoreasoner.synthetic.videos import VideoSettings, make_videos

    with tempfile.TemporaryDirectory() as folder:
        [row] = make_videos(folder, 1, VideoSettings(), splits=["plain"])
        answer = load().ask(row.video_path(folder), row.question, row.options or ())
    if answer.choice != row.answer:
        raise RuntimeError(
            f"the shipped model answered {answer.choice} where {row.answer} is right: torch computes wrongly on this "
            "machine, or the checkpoint was changed"
        )
    return "the answer to a question about a video made here is right"


def _examine(name: str, look: Callable[[], str], before: str = "") -> Finding:
    try:
        return Finding(name, before + look())
    # A broken installation can raise anything, and the other parts must still be examined.
    except Exception as error:  # noqa: BLE001
        words = " ".join(str(error).split())[:300]
        return Finding(name, f"broken: {type(error).__name__}" + (f": {words}" if words else ""), ok=False)


def _version(module: str) -> str:
    return str(importlib.import_module(module).__version__)


def _ffmpeg() -> str:
    import av

    library = ".".join(map(str, av.library_versions["libavcodec"]))
    return f"{av.ffmpeg_version_info}, libavcodec {library}"


def _processor() -> str:
    import torch

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return f"{os.cpu_count()} cores, {torch.get_num_threads()} torch threads, {memory / 2**30:.1f} GiB memory"


def _accelerators() -> list[Finding]:
    import torch

    found = [_examine(f"cuda:{number}", partial(_cuda, number)) for number in range(torch.cuda.device_count())]
    return [*found, Finding("mps", "Apple GPU")] if torch.backends.mps.is_available() else found


def _cuda(number: int) -> str:
    import torch

    free, total = torch.cuda.mem_get_info(number)
    return f"{torch.cuda.get_device_name(number)}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
