from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from videoreasoner.errors import SettingError, VideoError
from videoreasoner.video.frame_array import FrameArray
from videoreasoner.video.reader import VideoReader


def frames(count: int, height: int = 6, width: int = 8) -> np.ndarray:
    """Frame i is filled with i."""
    return np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None, None], (count, height, width, 3)).copy()


def test_it_is_a_video_reader() -> None:
    video: VideoReader = FrameArray(frames(10), fps=4, name="camera 3")
    assert (video.name, video.width, video.height, video.rotation, video.problems) == ("camera 3", 8, 6, 0, [])
    assert video.duration_s == 2.5
    assert video.fps == 4
    assert video.frame_times_s.tolist() == [i / 4 for i in range(10)]
    with video as opened:
        assert opened is video


def test_frames_are_those_on_screen() -> None:
    video = FrameArray(frames(10), fps=4)
    found = video.frames_at([0.0, 0.24, 0.25, 2.6, -1.0, 1.1])
    assert found.pixels[:, 0, 0, 0].tolist() == [0, 0, 1, 9, 0, 4]
    assert found.times_s.tolist() == [0.0, 0.0, 0.25, 2.25, 0.0, 1.0]
    assert video.frames_at([0.2], seek="keyframe").times_s.tolist() == [0.25]


def test_times_may_be_uneven_and_start_anywhere() -> None:
    video = FrameArray(frames(3), times_s=[5.0, 5.5, 7.0])
    assert video.frame_times_s.tolist() == [0.0, 0.5, 2.0]
    assert video.duration_s == 3.5
    assert video.frames_at([1.9, 2.0]).times_s.tolist() == [0.5, 2.0]


@given(st.lists(st.floats(0, 20), min_size=1, max_size=20))
def test_a_frame_is_never_shown_before_its_time(times_s: list[float]) -> None:
    video = FrameArray(frames(30), fps=2)
    found = video.frames_at(times_s).times_s
    assert (found <= np.asarray(times_s)).all()
    assert (np.minimum(times_s, 14.9) - found < 0.5).all()


def test_frames_are_scaled_down_and_never_up() -> None:
    video = FrameArray(frames(4, 60, 80), fps=1)
    assert video.frames_at([2.0], short_side=30).pixels.shape == (1, 30, 40, 3)
    assert (video.frames_at([2.0], short_side=30).pixels == 2).all()
    assert video.frames_at([2.0], short_side=90).pixels.shape == (1, 60, 80, 3)


@pytest.mark.parametrize(
    ("array", "more", "says"),
    [
        (frames(3).astype(np.float32), {"fps": 1}, r"float32\[3, 6, 8, 3\]"),
        (frames(3)[..., :2], {"fps": 1}, "uint8"),
        ([1, 2], {"fps": 1}, "list"),
        (frames(0), {"fps": 1}, "without pixels"),
        (frames(3), {}, "either fps or times_s"),
        (frames(3), {"fps": 1, "times_s": [0, 1, 2]}, "either fps or times_s"),
        (frames(3), {"fps": 0}, "positive"),
        (frames(3), {"fps": float("nan")}, "positive"),
        (frames(3), {"times_s": [0, 1]}, "as many increasing times"),
        (frames(3), {"times_s": [0, 1, 1]}, "as many increasing times"),
        (frames(1), {"times_s": [0]}, "at least two"),
    ],
)
def test_what_cannot_be_used_is_named(array: np.ndarray, more: dict, says: str) -> None:
    with pytest.raises(VideoError, match=says):
        FrameArray(array, **more)


def test_times_that_are_no_times() -> None:
    with pytest.raises(SettingError):
        FrameArray(frames(2), times_s=[0.0, float("inf")])


def test_each_frame_may_have_a_size_of_its_own() -> None:
    found = list(FrameArray(frames(10), fps=4).iter_frames_at([0.0, 0.0, 1.0], "exact", [None, 3, 6]))
    assert [image.shape for _, image in found] == [(6, 8, 3), (3, 4, 3), (6, 8, 3)]
    assert [image[0, 0, 0] for _, image in found] == [0, 0, 4]
