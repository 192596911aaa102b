from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
from numpy.typing import NDArray

from videoreasoner.errors import SettingError
from videoreasoner.video.reader import check_seek, check_side, check_times, collect_frames, decoding_threads


class _Counter:
    """A reader with a frame each second: the pixels of frame n are n."""

    def __init__(self) -> None:
        self.asked: list[float] = []

    def iter_frames_at(
        self, times_s: NDArray[np.float64], seek: str, short_side: int | None
    ) -> Iterator[tuple[float, NDArray[np.uint8]]]:
        self.asked = list(times_s)
        for time_s in times_s:
            yield float(int(time_s)), np.full((2, 4, 3), int(time_s), np.uint8)


def test_frames_are_decoded_in_the_order_of_the_video_and_given_in_that_of_the_times() -> None:
    video = _Counter()
    frames = collect_frames(video, [5.5, 1.0, 3.9, 1.0], "exact", None)  # type: ignore[arg-type]
    assert video.asked == [1.0, 1.0, 3.9, 5.5]
    assert frames.times_s.tolist() == [5.0, 1.0, 3.0, 1.0]
    assert frames.pixels.shape == (4, 2, 4, 3)
    assert frames.pixels[:, 0, 0, 0].tolist() == [5, 1, 3, 1]


@pytest.mark.parametrize("times_s", [[], [float("nan")], [0.0, float("inf")], [[0.0]], 1.0, ["soon"], None])
def test_times_that_make_no_sense_are_refused(times_s: list[float]) -> None:
    with pytest.raises(SettingError, match="times_s"):
        check_times(times_s)


def test_arguments_that_make_sense_are_kept() -> None:
    assert check_times((1, 2)).tolist() == [1.0, 2.0]
    assert (check_seek("keyframe"), check_side(None), check_side(1)) == ("keyframe", None, 1)


def test_threads_are_those_of_the_cores_and_one_in_a_worker() -> None:
    assert decoding_threads(None) == min(8, len(os.sched_getaffinity(0)))
    assert [decoding_threads(threads) for threads in (-1, 0, 3, 100)] == [1, 1, 3, 100]
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(decoding_threads, None).result() == 1
