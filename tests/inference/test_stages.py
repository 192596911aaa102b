"""An answer in the making says what it is doing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fake_engine import FakeEncoder, FakeEngine
from videoreasoner.inference.query import Query
from videoreasoner.inference.reasoner import Reasoner
from videoreasoner.inference.stages import StageProgress, ignore
from videoreasoner.synthetic.videos import VideoSettings, video_world, write_video


@pytest.fixture(scope="module")
def video_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("videos") / "video.mp4"
    made = VideoSettings(duration_s=12.0, size=32, fps=20, gop_s=1.5)
    write_video(path, video_world(made, 0), made)
    return path


def test_each_stage_is_reported_when_it_begins(video_file: Path) -> None:
    seen: list[StageProgress] = []
    answers = Reasoner(FakeEngine(), FakeEncoder()).ask_many(
        video_file, [Query("What?"), Query("Who?")], progress=seen.append
    )
    search = [StageProgress("search", done, 12) for done in range(13)]
    passes = [StageProgress("locate"), StageProgress("focus"), StageProgress("answer")]
    # The second question finds the video open and searched.
    assert seen == [StageProgress("open"), *search, *passes, *passes]
    assert answers[0].timing["open"] > 0
    assert answers[0].timing["total"] > answers[0].timing["open"]
    assert "open" not in answers[1].timing
    assert ignore(seen[0]) is None


@pytest.mark.parametrize("mode", ["direct", "think"])
def test_other_modes_have_fewer_stages(video_file: Path, mode: str) -> None:
    seen: list[StageProgress] = []
    Reasoner(FakeEngine(), FakeEncoder()).ask(video_file, "What?", (), mode, progress=seen.append)
    assert seen == [StageProgress("open"), StageProgress("answer")]
