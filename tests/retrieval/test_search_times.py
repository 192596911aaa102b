"""Which frames are searched: by the frame table alone, exact where that is cheap, and never at a great cost."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from videoreasoner.retrieval.keyframes import retrieval_times
from videoreasoner.retrieval.search_times import (
    ADDED_FRAMES,
    ADDED_SHARE,
    frames_to_decode,
    passed,
    search_times,
    sparse_key_times,
)
from videoreasoner.settings import Settings
from videoreasoner.video.pyav.index import FrameIndex
from videoreasoner.video.pyav.planned import FRAMES_WORTH_A_SEEK, plan_runs
from videoreasoner.video.sampling import uniform_plan


@dataclass
class Table:
    """What the choice of frames needs to know of a video."""

    duration_s: float
    frame_times_s: NDArray[np.float64]
    key_times_s: NDArray[np.float64]


def table(duration_s: float, gop_s: float, fps: float = 25.0) -> Table:
    shown_s = np.arange(round(duration_s * fps)) / fps
    return Table(duration_s, shown_s, shown_s[:: max(1, round(gop_s * fps))])


def exact(video: Table, settings: Settings) -> list[float]:
    return retrieval_times(video.duration_s, settings.retrieval_rate_fps, settings.retrieval_max_frames).tolist()


def sparse(video: Table, settings: Settings) -> NDArray[np.float64]:
    return uniform_plan(video.duration_s, settings.sampling).times_s


@pytest.mark.parametrize("gop_s", [0.5, 2.0, 10.0, 1000.0])
def test_short_videos_are_searched_at_even_times(gop_s: float) -> None:
    for duration_s in (0.5, 10.0, 45.0):
        video = table(duration_s, gop_s)
        assert search_times(video, Settings()).tolist() == exact(video, Settings())


@pytest.mark.parametrize("gop_s", [0.04, 1.0, 2.0, 10.0, 300.0])
@pytest.mark.parametrize("minutes", [10, 60, 300])
def test_a_search_adds_little_to_the_frames_that_are_decoded_anyway(gop_s: float, minutes: int) -> None:
    settings = Settings()
    video = table(60.0 * minutes, gop_s)
    times_s, sparse_s = search_times(video, settings), sparse(video, settings)
    alone = frames_to_decode(sparse_s, video.frame_times_s, video.key_times_s)
    together = frames_to_decode(np.concatenate([sparse_s, times_s]), video.frame_times_s, video.key_times_s)
    most = max(ADDED_FRAMES, ADDED_SHARE * alone, settings.frame_budget * (FRAMES_WORTH_A_SEEK + 1))
    assert together - alone <= most
    assert 1 <= len(times_s) <= settings.retrieval_max_frames
    assert (np.diff(times_s) > 0).all()
    assert times_s[0] >= 0
    assert times_s[-1] < video.duration_s
    # What is not a key frame is decoded anyway, or the whole search is exact.
    if times_s.tolist() != exact(video, settings):
        others = times_s[~np.isin(times_s, video.key_times_s)]
        assert passed(others, sparse_s, video.frame_times_s, video.key_times_s).all()
    assert search_times(video, settings).tolist() == times_s.tolist()


def test_an_hour_with_few_key_frames_is_not_decoded_as_a_whole() -> None:
    video, settings = table(3600.0, 10.0), Settings()
    decoded = frames_to_decode(search_times(video, settings), video.frame_times_s, video.key_times_s)
    asked = frames_to_decode(exact(video, settings), video.frame_times_s, video.key_times_s)
    assert decoded < asked / 5


def test_the_setting_decides() -> None:
    video = table(3600.0, 10.0)
    wanted = Settings(retrieval_seek="exact")
    assert search_times(video, wanted).tolist() == exact(video, wanted)
    on_keys = search_times(video, Settings(retrieval_seek="keyframe"))
    assert set(on_keys) <= set(video.key_times_s)
    assert len(on_keys) == len(video.key_times_s) == 360
    # Sparse key frames are kept as candidates of an exact search, as for the sparse pass.
    moved = Settings(retrieval_seek="exact", sparse_seek="keyframe")
    assert len(sparse_key_times(video, moved)) == 360
    assert set(video.key_times_s) <= set(search_times(video, moved))


def test_a_video_without_a_list_of_key_frames_is_searched_at_even_times() -> None:
    video = Table(3600.0, np.arange(90_000) / 25.0, np.empty(0))
    for seek in ("auto", "exact", "keyframe"):
        settings = Settings(retrieval_seek=seek)
        assert search_times(video, settings).tolist() == exact(video, settings)


@pytest.mark.parametrize("seed", range(20))
def test_the_cost_is_that_of_the_runs_that_are_decoded(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 400))
    keys = np.union1d([0], rng.integers(0, count, rng.integers(0, 30)))
    shown_s = np.arange(count) / 25.0
    wanted = np.unique(rng.integers(0, count, rng.integers(1, 60)))
    index = FrameIndex(np.arange(count), count, None, np.stack([keys, keys], 1), counted=False)  # type: ignore[arg-type]
    runs = plan_runs(wanted.tolist(), index)
    decoded = sum(run.positions[-1] - index.position_of_key(run.key) + 1 for run in runs)
    cost = frames_to_decode(shown_s[wanted], shown_s, shown_s[keys])
    assert cost == decoded + FRAMES_WORTH_A_SEEK * (len(runs) - 1)
    # A frame is passed exactly if it costs nothing more.
    each_s = shown_s + 0.01
    free = passed(each_s, shown_s[wanted], shown_s, shown_s[keys])
    for position in rng.integers(0, count, 20):
        together = frames_to_decode([*shown_s[wanted], each_s[position]], shown_s, shown_s[keys])
        if free[position]:
            assert together == cost
