"""The public face: what `videoreasoner` offers, and that importing it is cheap."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import videoreasoner
from videoreasoner import errors


def test_every_public_name_is_listed_and_is_what_its_module_defines() -> None:
    assert {"Reasoner", "Query", "Answer", "VideoFile", "Span"} <= set(videoreasoner.__all__)
    for name in videoreasoner.__all__:
        assert name in dir(videoreasoner)
        assert getattr(videoreasoner, name).__name__ == name
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = videoreasoner.no_such_name


def test_every_named_error_is_public() -> None:
    named = {name for name, value in vars(errors).items() if isinstance(value, type)}
    assert named <= set(videoreasoner.__all__)
    assert videoreasoner.VideoError is errors.VideoError


def test_type_checkers_see_the_same_names() -> None:
    source = Path(videoreasoner.__file__).read_text(encoding="utf-8")
    assert set(re.findall(r"import (\w+) as \1", source)) == {*videoreasoner.__all__, "__version__"}


def test_importing_it_is_cheap() -> None:
    code = "import sys; old = set(sys.modules); import videoreasoner; print(*(set(sys.modules) - old))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert {name.split(".")[0] for name in done.stdout.split()} <= {
        "videoreasoner",
        "importlib",
        "typing",
        "_typing",
    } | {*sys.stdlib_module_names}


def test_the_version_is_written_once() -> None:
    """The build reads it from the file that the package reads it from."""
    root = Path(__file__).parent.parent
    assert 'path = "src/videoreasoner/version.py"' in (root / "pyproject.toml").read_text(encoding="utf-8")
    written = [
        path
        for path in [root / "pyproject.toml", *(root / "src").rglob("*.py")]
        if f'"{videoreasoner.__version__}"' in path.read_text(encoding="utf-8")
    ]
    assert written == [root / "src" / "videoreasoner" / "version.py"]
