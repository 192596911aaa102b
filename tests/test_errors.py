"""Every named error is one of ours, says what it is for, and is raised somewhere."""

from __future__ import annotations

import inspect

import pytest

from tests.paths import ROOT
from videoreasoner import errors
from videoreasoner.cli import main
from videoreasoner.errors import Stopped, VideoError, VideoReasonerError

CLASSES = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if kind.__module__ == errors.__name__]


def test_every_error_is_caught_by_the_base_class_and_described() -> None:
    assert len(CLASSES) > 5
    for kind in CLASSES:
        assert issubclass(kind, VideoReasonerError)
        assert kind.__doc__


def test_no_error_is_left_over() -> None:
    sources = [path for path in (ROOT / "src").rglob("*.py") if path.name != "errors.py"]
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    assert [kind.__name__ for kind in CLASSES if kind.__name__ not in text] == []


@pytest.mark.parametrize("kind", CLASSES)
def test_the_command_line_shows_each_as_one_line(
    kind: type[VideoReasonerError], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise kind("video.mp4: two\nlines")

    monkeypatch.setattr(main, "app", fail)
    with pytest.raises(SystemExit) as stopped:
        main.main(["doctor"])
    is_stop = kind is Stopped
    assert stopped.value.code == (130 if is_stop else 2)
    between = "\\n" if issubclass(kind, VideoError) else " "
    assert capsys.readouterr().err == f"{'' if is_stop else 'error: '}video.mp4: two{between}lines\n"
