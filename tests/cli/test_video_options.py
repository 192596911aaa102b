"""The flags of `ask` that say how videos are decoded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.video.videos import Recipe
from videoreasoner.cli.main import main
from videoreasoner.video.isolated import process
from videoreasoner.video.pyav.file import VideoFile


@pytest.fixture(scope="module")
def video_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Recipe("video.mp4", count=100, options={"g": "25"}).make(tmp_path_factory.mktemp("videos"))


def _run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, Any]:
    with pytest.raises(SystemExit) as caught:
        main(["ask", *map(str, arguments)])
    captured = capsys.readouterr()
    assert isinstance(caught.value.code, int)
    return caught.value.code, captured


def test_sparse_seek_reaches_the_frames(video_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--mode", "direct", "--encoder", "none", "--frame-budget", 4, "--device", "cpu", "--json")
    times_s = {}
    for seek in ("exact", "keyframe"):
        code, captured = _run(capsys, video_file, "What is it?", *flags, "--sparse-seek", seek)
        assert code == 0, captured.err
        answer = json.loads(captured.out)
        assert answer["settings"]["sparse_seek"] == seek
        times_s[seek] = [frame["time_s"] for frame in answer["frames"]]
    assert times_s["exact"] == pytest.approx([0.48, 1.48, 2.48, 3.48])
    with VideoFile(video_file) as video:
        assert times_s["keyframe"] == video.key_times_s.tolist()


def test_a_protocol_reaches_the_answer_with_what_differs_from_it(
    video_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # 32 pixels are one token of tiny; frames as large as the protocol's would take minutes.
    flags = ("--mode", "direct", "--encoder", "none", "--device", "cpu", "--json", "--protocol", "paper")
    small = ("--min-pixels", 1024, "--max-pixels", 1024)
    code, captured = _run(capsys, video_file, "What is it?", *flags, *small)
    assert code == 0, captured.err
    answer = json.loads(captured.out)
    # 4 seconds at 2 frames a second, where the settings of tiny are 8.
    assert len(answer["frames"]) == 8
    assert answer["settings"]["protocol"] == "paper"
    assert answer["settings"]["protocol_changes"] == {"min_pixels": 100352, "max_pixels": 200704}


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--protocol", "papper"), "--protocol"),
        (("--min-pixels", "9999"), "min_pixels (9999) is larger than max_pixels (1024)"),
        (("--sparse-seek", "nearest"), "--sparse-seek"),
        (("--video-time-limit", "0"), "time limit"),
        (("--video-time-limit", "nan"), "time limit"),
    ],
)
def test_values_that_make_no_sense_are_one_line(
    video_file: Path, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], words: str
) -> None:
    code, captured = _run(capsys, video_file, "What is it?", *flags)
    assert code == 2
    assert captured.out == ""
    assert words in captured.err
    assert captured.err.count("\n") == 1


def test_a_decoder_that_takes_too_long_is_one_line(
    video_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process.DecoderProcess, "is_alive", lambda self: False)
    code, captured = _run(capsys, video_file, "What is it?", "--video-time-limit", "1e-6")
    assert code == 2
    assert str(video_file) in captured.err
    assert "--video-time-limit" in captured.err
    assert captured.err.count("\n") == 1
