"""`sparse_seek`: where sparse frames come from, and that their times are true from the video to the evidence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.fake_engine import SETTINGS, FakeEncoder, FakeEngine
from tests.video.videos import straight
from videoreasoner.errors import SettingError
from videoreasoner.inference.answer import Answer
from videoreasoner.inference.reasoner import Reasoner
from videoreasoner.models.clip_features import ClipFeatures
from videoreasoner.spans import best_iou
from videoreasoner.synthetic.videos import VideoSettings, make_videos, video_world, write_video
from videoreasoner.synthetic.world import WorldSettings
from videoreasoner.tasks import Task
from videoreasoner.video.pyav.file import VideoFile
from videoreasoner.video.sampling import uniform_plan

# A key frame in every slot of the sparse grid (16 frames), and long groups of pictures with few of them.
GOPS_S = {"a key frame in every slot": 1.5, "few key frames": 10.0}


@pytest.fixture(scope="module", params=GOPS_S)
def video_file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("videos") / "video.mp4"
    made = VideoSettings(duration_s=24.0, size=32, fps=20, gop_s=GOPS_S[request.param])
    write_video(path, video_world(made, 0), made)
    return path


def _ask(video_file: Path, mode: str = "focus", **changes: Any) -> tuple[Answer, FakeEngine]:
    engine = FakeEngine(SETTINGS.changed(**changes))
    return Reasoner(engine, FakeEncoder()).ask(video_file, "What?", mode=mode), engine


@pytest.mark.parametrize("mode", ["focus", "direct"])
def test_sparse_frames_stand_on_key_frames_and_dense_ones_where_they_were(video_file: Path, mode: str) -> None:
    with VideoFile(video_file) as video:
        keys_s, duration_s = video.key_times_s, video.duration_s
    exact, _ = _ask(video_file, mode)
    answer, engine = _ask(video_file, mode, sparse_seek="keyframe")
    expected = uniform_plan(duration_s, SETTINGS.sampling, keys_s)
    assert engine.calls[0].plan.pairs_s.tolist() == expected.pairs_s.tolist()
    sparse_s = {frame.time_s for frame in answer.frames if not frame.dense}
    assert sparse_s <= set(expected.times_s)
    assert sparse_s & set(keys_s)
    assert [f for f in answer.frames if f.dense] == [f for f in exact.frames if f.dense]
    assert len(answer.frames) == len({frame.time_s for frame in answer.frames}) <= SETTINGS.frame_budget
    assert answer.settings["sparse_seek"] == "keyframe"


def test_by_default_frames_are_evenly_spread(video_file: Path) -> None:
    answer, _ = _ask(video_file, "direct")
    assert np.diff([frame.time_s for frame in answer.frames]) == pytest.approx(24.0 / 16)


def test_searched_frames_stand_on_key_frames_too(video_file: Path) -> None:
    with VideoFile(video_file) as video:
        keys_s = set(video.key_times_s.tolist())
    searched: list[float] = []
    for seek in ("exact", "keyframe"):
        engine = FakeEngine(SETTINGS.changed(sparse_seek=seek, retrieval_rate_fps=0.5))
        engine.texts[Task.KEY_ELEMENTS] = "3"
        [keyframe] = Reasoner(engine, FakeEncoder()).ask(video_file, "What?").keyframes
        searched.append(keyframe.time_s)
    assert searched[0] == 7.0
    assert searched[1] in keys_s if len(keys_s) > 12 else abs(searched[1] - 7.0) <= 1.0


def test_times_are_true_from_the_video_to_the_evidence(video_file: Path) -> None:
    tiny = Reasoner.from_pretrained("tiny", device="cpu", sparse_seek="keyframe", frame_budget=16, encoder="none")
    answer = tiny.ask(video_file, "What shape appears?")
    pictures = straight(video_file)
    with VideoFile(video_file) as video:
        shown_s = video.frame_times_s
        for frame in answer.frames:
            # When a frame is on screen is when it is shown first: the very time of the table.
            position = int(np.flatnonzero(shown_s == frame.time_s)[0])
            assert np.array_equal(video.frames_at([frame.time_s]).pixels[0], pictures[position])
    assert {frame.time_s for frame in answer.frames if not frame.dense} & set(video.key_times_s.tolist())


def test_positions_state_the_true_times(video_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[list[float], float | None]] = []
    temporal_indices = ClipFeatures.encode.__globals__["temporal_indices"]

    def watched(starts: list[float], rate: float | None) -> Any:
        seen.append((list(starts), rate))
        return temporal_indices(starts, rate)

    monkeypatch.setitem(ClipFeatures.encode.__globals__, "temporal_indices", watched)
    tiny = Reasoner.from_pretrained("tiny", device="cpu", sparse_seek="keyframe", frame_budget=16, encoder="none")
    answer = tiny.ask(video_file, "What shape appears?", mode="direct")
    assert seen[-1][0] == [frame.time_s for frame in answer.frames][::2]


def test_events_are_located_as_well_on_key_frames(tmp_path: Path) -> None:
    videos = VideoSettings(size=32, gop_s=1.5, subset="held_out", world=WorldSettings(events=(1, 1)))
    rows = make_videos(tmp_path, 8, videos, splits=["plain"])
    iou = {}
    for seek in ("exact", "keyframe"):
        tiny = Reasoner.from_pretrained("tiny", device="cpu", sparse_seek=seek, encoder="none")
        found = [tiny.ask(row.video_path(tmp_path), row.question, row.options).event for row in rows]
        iou[seek] = np.mean([best_iou(event, row.event) for event, row in zip(found, rows, strict=True)])
    assert iou["keyframe"] > 0.6
    assert iou["keyframe"] > iou["exact"] - 0.1


def test_an_unknown_way_is_refused() -> None:
    with pytest.raises(SettingError, match="sparse_seek"):
        SETTINGS.changed(sparse_seek="nearest")
