from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.video.test_frame_array import frames
from videoreasoner.errors import SettingError
from videoreasoner.spans import Span
from videoreasoner.synthetic.videos import VideoSettings, video_world, write_video
from videoreasoner.video.frame_array import FrameArray
from videoreasoner.video.pyav.file import VideoFile
from videoreasoner.video.reader import VideoReader
from videoreasoner.video.video_range import VideoRange


@pytest.fixture(scope="module")
def video_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("range") / "video.mp4"
    made = VideoSettings(duration_s=10, size=32, gop_s=1, fps=20)
    write_video(path, video_world(made, 0), made)
    return path


def test_it_is_a_video_reader_and_leaves_the_video_open() -> None:
    video = FrameArray(frames(10), fps=4, name="camera 3")
    part: VideoReader = VideoRange(video, 0.6, 1.5)
    assert (part.name, part.width, part.height, part.rotation, part.fps) == ("camera 3", 8, 6, 0, 4)
    assert part.frame_times_s.tolist() == [0.0, 0.25, 0.5, 0.75]
    assert part.duration_s == 1.0
    with part as opened:
        assert opened is part
    assert video.frames_at([0]).pixels.max() == 0


@given(
    st.floats(0, 14),
    st.floats(0.1, 20),
    st.lists(st.floats(-3, 20), min_size=1),
    st.sampled_from(["exact", "keyframe"]),
)
def test_frames_are_those_of_the_whole_video_within_the_range(
    start_s: float, length_s: float, times_s: list[float], seek: str
) -> None:
    video = FrameArray(frames(30), fps=2)
    part = VideoRange(video, start_s, start_s + length_s)
    found = part.frames_at(times_s, seek)
    whole_s = found.times_s + part.span.start_s
    assert (found.pixels[:, 0, 0, 0] == np.round(whole_s * 2)).all()
    assert (whole_s >= part.span.start_s).all()
    assert (whole_s < part.span.end_s).all()
    assert part.span.start_s <= start_s
    if seek == "exact":
        inside_s = np.clip(times_s, 0, part.frame_times_s[-1])
        assert (found.times_s <= inside_s).all()
        assert (inside_s - found.times_s <= 0.5).all()


@settings(max_examples=20, deadline=None)
@given(start=st.integers(0, 190), count=st.integers(1, 30))
def test_every_frame_of_a_range_of_a_file_can_be_had_at_its_own_time(video_file: Path, start: int, count: int) -> None:
    with VideoFile(video_file) as video:
        ends_s = [*video.frame_times_s.tolist(), video.duration_s]
        start = min(start, len(ends_s) - 2)
        part = VideoRange(video, ends_s[start], ends_s[min(start + count, len(ends_s) - 1)])
        found = part.frames_at(part.frame_times_s)
        assert found.times_s.tolist() == part.frame_times_s.tolist()
        assert (found.pixels == video.frames_at(video.frame_times_s[start : start + count]).pixels).all()


@pytest.mark.parametrize(("start_s", "end_s"), [(-1, 2), (3, 2), (2, 2), (5, None), (0, -1), (float("nan"), 2)])
def test_a_range_without_video_is_refused(start_s: float, end_s: float | None) -> None:
    with pytest.raises(SettingError, match=r"camera 3: there is nothing from .* the video lasts 2.5 s"):
        VideoRange(FrameArray(frames(10), fps=4, name="camera 3"), start_s, end_s)


def test_a_range_may_end_behind_the_video() -> None:
    assert VideoRange(FrameArray(frames(10), fps=4), 1.0, 99.0).span == Span(1.0, 2.5)
