"""What is installed and whether it works: versions, devices, optional parts, and a question asked for real.

Each finding stands alone: a part that is broken is reported, and the others are looked at all the same.
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
from typing import TYPE_CHECKING, Any

from videoreasoner.errors import VideoReasonerError
from videoreasoner.version import __version__

if TYPE_CHECKING:
    from videoreasoner.inference.reasoner import Reasoner

# What a broken installation raises, from a missing library to a clash of versions.
_BREAKAGE = (
    ImportError,
    OSError,
    RuntimeError,
    AttributeError,
    TypeError,
    ValueError,
    KeyError,
    NameError,
    SyntaxError,
    ArithmeticError,
    VideoReasonerError,
)


@dataclass(frozen=True)
class Extra:
    """An optional part, named as in pyproject.toml.

    Attributes:
        module: what it needs to be importable.
        purpose: what it is good for.
    """

    module: str
    purpose: str


EXTRAS = {
    "retrieval": Extra("open_clip", "keyframes by open_clip encoders, such as PE-Core"),
    "lora": Extra("peft", "training low-rank adapters (LoRA, QLoRA)"),
    "datasets": Extra("datasets", "training rows from the Hugging Face hub"),
    "plots": Extra("matplotlib", "the plots of `videoreasoner reproduce`"),
}
_PARTS = {
    "torch": "torch",
    "transformers": "transformers",
    "PyAV": "av",
    "numpy": "numpy",
    "Pillow": "PIL",
}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: of the part, device or check.
        text: its version or state, in one line; what is wrong when it is broken.
        ok: whether it works. A part that is merely not installed is not broken.
        install: the command that installs it, where it is missing.
    """

    name: str
    text: str
    ok: bool = True
    install: str | None = None


@dataclass(frozen=True)
class Diagnosis:
    """All findings. `ok` is that of the self-check, which goes through everything that has to work."""

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
    """Look at everything. Takes about ten seconds, most of it loading torch.

    Args:
        load: gives a reasoner with the shipped model.
    """
    return Diagnosis(versions(), devices(), extras(), self_check(load))


def versions() -> list[Finding]:
    """This package, Python, and the libraries that matter."""
    python = f"{platform.python_version()} ({sys.executable}), {platform.system()} {platform.machine()}"
    found = [Finding("videoreasoner", __version__), Finding("Python", python)]
    found += [_look(name, lambda module=module: _version(module)) for name, module in _PARTS.items()]  # type: ignore[misc]
    return [*found, _look("FFmpeg", _ffmpeg)]


def devices() -> list[Finding]:
    """Processor and memory, and each accelerator that torch can use."""
    found = [_look("CPU", _processor)]
    try:
        import torch

        for number in range(torch.cuda.device_count()):
            found.append(_look(f"cuda:{number}", lambda number=number: _cuda(number)))  # type: ignore[misc]
        if torch.backends.mps.is_available():
            found.append(Finding("mps", "Apple GPU"))
    except _BREAKAGE as error:
        found.append(Finding("accelerators", _line(error), ok=False))
    return found


def extras() -> list[Finding]:
    """The optional parts, and how to install those that are missing."""
    found = []
    for name, extra in EXTRAS.items():
        command = install_command(name)
        if importlib.util.find_spec(extra.module) is None:
            found.append(Finding(name, f"not installed; {extra.purpose}", install=command))
            continue
        finding = _look(name, lambda module=extra.module: f"{module} {_version(module)}")  # type: ignore[misc]
        found.append(finding if finding.ok else Finding(name, finding.text, ok=False, install=command))
    return found


def install_command(extra: str) -> str:
    """What to type to get an optional part into this very Python."""
    command = f'{shlex.quote(sys.executable)} -m pip install "videoreasoner[{extra}]"'
    try:
        # Without it, pip may replace a torch that was built for this machine's GPU.
        return f'{command} "torch=={importlib.metadata.version("torch").split("+")[0]}"'
    except importlib.metadata.PackageNotFoundError:
        return command


def self_check(load: Callable[[], Reasoner]) -> Finding:
    """Make a video, ask the model that ships about it, and compare with the truth."""
    started = time.perf_counter()
    finding = _look("self-check", lambda: _ask(load))
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
    return "made a video and answered a question about it rightly"


def _look(name: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(name, look())
    except _BREAKAGE as error:
        return Finding(name, _line(error), ok=False)


def _line(error: BaseException) -> str:
    words = " ".join(str(error).split())
    return f"broken: {type(error).__name__}: {words[:300]}" if words else f"broken: {type(error).__name__}"


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


def _cuda(number: int) -> str:
    import torch

    free, total = torch.cuda.mem_get_info(number)
    return f"{torch.cuda.get_device_name(number)}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
