"""`videoreasoner search` on real videos: what it finds, and that bad input is one line on stderr and exit code 2."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.inference.report.test_answer_page import PageReader
from tests.video.videos import Recipe
from videoreasoner.cli.main import main
from videoreasoner.rows import Row
from videoreasoner.synthetic.videos import VideoSettings, make_videos
from videoreasoner.video.isolated.file import GuardedVideoFile


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Row, Path]:
    """A synthetic video with one question, which says when its key element can be seen."""
    folder = tmp_path_factory.mktemp("videos")
    [row] = make_videos(folder, 1, VideoSettings(seed=77, subset="held_out"), splits=["plain"])
    return row, Path(row.video_path(folder))


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        main(["search", *map(str, arguments)])
    captured = capsys.readouterr()
    assert isinstance(caught.value.code, int)
    return caught.value.code, captured.out, captured.err


def found(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> Any:
    code, out, err = run(capsys, *arguments, "--json")
    assert (code, err) == (0, "")
    return json.loads(out)


def test_it_finds_when_something_can_be_seen(capsys: pytest.CaptureFixture[str], made: tuple[Row, Path]) -> None:
    row, video = made
    [element] = row.key_elements or []
    [event] = row.event or []
    result = found(capsys, video, element)
    [text] = result["texts"]
    best = text["moments"][0]
    assert text["text"] == element
    assert event.contains(best["time_s"])
    assert best["start_s"] == pytest.approx(event.start_s, abs=1.0)
    assert best["end_s"] == pytest.approx(event.end_s, abs=1.0)
    assert best["score"] == pytest.approx(max(text["segment_scores"]), abs=1e-6)
    assert len(result["segment_times_s"]) == len(text["segment_scores"]) == result["frames_searched"] == 60
    assert (result["video"], result["encoder"]) == (str(video), "tiny-encoder")
    code, out, err = run(capsys, video, element)
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == element
    assert f"{best['time_s']:.2f} s   similarity {best['score']:.3f}" in out.splitlines()[1]


def test_flags_decide_the_search(capsys: pytest.CaptureFixture[str], made: tuple[Row, Path]) -> None:
    _, video = made
    fast = found(capsys, video, "red  circle", "digit", "--retrieval-rate-fps", "4", "--top", "1")
    assert fast["frames_searched"] == 240
    assert [text["text"] for text in fast["texts"]] == ["red circle", "digit"]
    assert all(len(text["moments"]) == 1 for text in fast["texts"])
    few = found(capsys, video, "digit", "--retrieval-max-frames", "7", "--set", "retrieval_segment_frames=2")
    assert (few["frames_searched"], len(few["segment_times_s"])) == (7, 4)
    assert few["settings"]["retrieval_segment_frames"] == 2
    on_keys = found(capsys, video, "digit", "--sparse-seek", "keyframe", "--retrieval-max-frames", "7")
    assert on_keys["segment_times_s"] != found(capsys, video, "digit", "--retrieval-max-frames", "7")["segment_times_s"]


def test_the_report_opens_the_video_once(
    capsys: pytest.CaptureFixture[str], made: tuple[Row, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    initialise = GuardedVideoFile.__init__

    def count(self: GuardedVideoFile, source: str, *arguments: Any, **options: Any) -> None:
        opened.append(str(source))
        initialise(self, source, *arguments, **options)

    monkeypatch.setattr(GuardedVideoFile, "__init__", count)
    _, video = made
    page = tmp_path / "page.html"
    code, out, err = run(capsys, video, "red triangle", "digit", "--report", page)
    assert (code, err) == (0, "")
    assert out.endswith(f"Report  {page}\n")
    assert opened == [str(video)]
    read = PageReader(page.read_text(encoding="utf-8"))
    assert read.count("polyline") == 2
    assert read.count("img") >= 2
    assert page.stat().st_size < 1_000_000
    # The same for the page of an answer: checked, asked and pictured.
    opened.clear()
    with pytest.raises(SystemExit) as caught:
        main(["ask", str(video), "What color is it?", "-o", "red", "-o", "blue", "--report", str(tmp_path / "a.html")])
    assert caught.value.code == 0
    assert opened == [str(video)]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["no-such.mp4", "red"], ["no-such.mp4", "no such file"]),
        (["VIDEO"], ["TEXT"]),
        ([], ["VIDEO"]),
        (["VIDEO", " "], ["TEXT is empty"]),
        (["VIDEO", *["red"] * 33], ["33 texts", "32"]),
        (["VIDEO", "x" * 1001], ["1,001 characters"]),
        (["VIDEO", "red", "--top", "0"], ["top"]),
        (["VIDEO", "red", "--encoder", "./missing"], ["./missing", "no such folder"]),
        (["VIDEO", "red", "--encoder", "none"], ["none"]),
        (["VIDEO", "red", "--retrieval-rate-fps", "-1"], ["retrieval_rate_fps"]),
        (["VIDEO", "red", "--set", "frame_budget=8"], ["frame_budget", "no effect"]),
        (["VIDEO", "red", "--device", "toaster"], ["toaster"]),
        (["VIDEO", "red", "--report", "nowhere/page.html"], ["nowhere/page.html"]),
        (["VIDEO", "red", "--report", "VIDEO"], ["that is the video"]),
        (["VIDEO", "red", "--video-time-limit", "0"], ["time limit"]),
    ],
)
def test_bad_input_is_one_line(
    capsys: pytest.CaptureFixture[str], made: tuple[Row, Path], arguments: list[str], words: list[str]
) -> None:
    code, out, err = run(capsys, *(str(made[1]) if argument == "VIDEO" else argument for argument in arguments))
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    for word in words:
        assert word.lower() in err.lower()


def test_short_and_damaged_videos_are_searched(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    single = found(capsys, Recipe("one.mp4", count=1).make(tmp_path), "red")
    [moment] = single["texts"][0]["moments"]
    assert (moment["start_s"], moment["end_s"]) == (0.0, single["duration_s"])
    (tmp_path / "empty.mp4").touch()
    code, _, err = run(capsys, tmp_path / "empty.mp4", "red")
    assert (code, err.count("\n")) == (2, 1)


def test_a_wrong_path_is_refused_before_torch_is_imported() -> None:
    code = (
        "import sys\nfrom videoreasoner.cli.main import main\n"
        "try: main(['search', 'no-such.mp4', 'red'])\n"
        "except SystemExit as stopped: print(stopped.code, 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, "LANG": "C"}
    )
    assert done.stdout.split() == ["2", "False"]
