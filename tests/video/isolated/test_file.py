from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.video.videos import RECIPES, Recipe, overwrite_packets
from videoreasoner.errors import SettingError, VideoError
from videoreasoner.video.isolated.file import GuardedVideoFile
from videoreasoner.video.pyav.file import VideoFile
from videoreasoner.video.reader import VideoReader

SHORT_GOPS = RECIPES["short gops, b-frames"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("videos")


@pytest.fixture(scope="module")
def short(folder: Path) -> Path:
    return SHORT_GOPS.make(folder)


@pytest.fixture
def video(short: Path) -> Iterator[GuardedVideoFile]:
    with GuardedVideoFile(short) as opened:
        yield opened


def _child(video: GuardedVideoFile) -> int:
    assert video._process is not None
    return video._process.pid


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


# It gives what a video in this process gives.


@pytest.mark.parametrize("name", RECIPES)
def test_it_equals_a_video_in_this_process(name: str, folder: Path) -> None:
    path = RECIPES[name].make(folder)
    readers: list[VideoReader] = [VideoFile(path, threads=1), GuardedVideoFile(path)]
    here, there = readers
    with here, there:
        for fact in ("width", "height", "rotation", "duration_s", "fps", "problems"):
            assert getattr(here, fact) == getattr(there, fact), fact
        assert np.array_equal(here.frame_times_s, there.frame_times_s)
        assert np.array_equal(here.key_times_s, there.key_times_s)
        times_s = [there.duration_s * share for share in (0.9, 0.1, 0.5, 0.1, 1.5, -1.0)]
        for seek in ("exact", "keyframe"):
            for side in (None, 16):
                expected, got = (each.frames_at(times_s, seek, side) for each in readers)
                assert np.array_equal(expected.pixels, got.pixels)
                assert expected.times_s.tolist() == got.times_s.tolist()
                one_by_one = list(there.iter_frames_at(times_s, seek, side))
                assert [time_s for time_s, _ in one_by_one] == got.times_s.tolist()
                assert all(np.array_equal(a, b) for (_, a), b in zip(one_by_one, got.pixels, strict=True))


@pytest.mark.parametrize("name", RECIPES)
def test_each_frame_may_have_a_size_of_its_own(name: str, folder: Path) -> None:
    """Also two sizes of one frame, and on several threads."""
    path = RECIPES[name].make(folder)
    with VideoFile(path, threads=1) as here, GuardedVideoFile(path) as there, VideoFile(path, threads=3) as threaded:
        times_s = np.repeat(np.linspace(0, here.duration_s, 9), 2)
        sides = [None, 16, 16, 16, 12, None] * 3
        large, small, smaller = (list(here.iter_frames_at(times_s, short_side=side)) for side in (None, 16, 12))
        for reader in (here, there, threaded):
            found = list(reader.iter_frames_at(times_s, "exact", sides))
            assert len(found) == len(sides)
            for i, ((time_s, image), side) in enumerate(zip(found, sides, strict=True)):
                expected_s, expected = {None: large, 16: small, 12: smaller}[side][i]
                assert time_s == expected_s
                assert np.array_equal(image, expected)
            with pytest.raises(SettingError, match="one for each"):
                reader.iter_frames_at([0.0, 1.0], "exact", [16])


def test_problems_cross_over(tmp_path: Path) -> None:
    path = RECIPES["all key frames"].make(tmp_path)
    overwrite_packets(path, {20, 21}.__contains__)
    with VideoFile(path) as here, GuardedVideoFile(path) as there:
        assert np.array_equal(*(each.frames_at(each.frame_times_s).pixels for each in (here, there)))
        assert there.problems == here.problems != []


def test_iterating_and_jumping_do_not_disturb_each_other(short: Path, video: GuardedVideoFile) -> None:
    with VideoFile(short) as here:
        expected = here.frames_at(here.frame_times_s).pixels
    times_s = video.frame_times_s
    other = video.iter_frames_at(times_s[::-1])
    for position, (time_s, image) in enumerate(video.iter_frames_at(times_s)):
        assert time_s == times_s[position]
        assert np.array_equal(image, expected[position])
        image[:] = 0
        if position % 7 == 0:
            assert np.array_equal(video.frames_at([1.9, 0.0]).pixels, expected[[47, 0]])
            time_s, image = next(other)
            assert np.array_equal(image, expected[times_s.tolist().index(time_s)])
            assert video.problems == []


def test_an_iteration_may_be_left(short: Path, video: GuardedVideoFile) -> None:
    for _ in range(3):
        next(video.iter_frames_at(video.frame_times_s))
    assert len(video.frames_at([0.0])) == 1


@pytest.mark.parametrize("times_s", [[], [float("nan")], [[0.0]], 1.0, ["soon"]])
def test_times_that_make_no_sense(video: GuardedVideoFile, times_s: list) -> None:
    for ask in (video.frames_at, video.iter_frames_at):
        with pytest.raises(SettingError, match="times_s"):
            ask(times_s)
    with pytest.raises(SettingError, match="exact, keyframe"):
        video.frames_at([0.0], seek="nearest")
    with pytest.raises(SettingError, match="short_side"):
        video.frames_at([0.0], short_side=0)
    assert len(video.frames_at([0.0])) == 1


def test_a_refusal_is_that_of_a_video_in_this_process(tmp_path: Path) -> None:
    (tmp_path / "words.mp4").write_text("no video" * 100)
    for name in ("words.mp4", "nowhere.mp4", "", "a\0b", "été \udcff.mp4"):
        messages = []
        for opening in (VideoFile, GuardedVideoFile):
            with pytest.raises(VideoError) as caught:
                opening(os.path.join(tmp_path, name))
            messages.append(str(caught.value))
        assert messages[0] == messages[1]


def test_a_relative_path_is_relative_to_here(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in (short.parent, short.parent.parent):
        monkeypatch.chdir(folder)
        with GuardedVideoFile(short.relative_to(folder)) as video:
            assert video.duration_s == pytest.approx(2.0)


def test_a_closed_video_says_so(short: Path) -> None:
    video = GuardedVideoFile(short)
    video.close()
    video.close()
    for ask in (
        lambda: video.duration_s,
        lambda: video.frames_at([0.0]),
        lambda: video.iter_frames_at([0.0]),
    ):
        with pytest.raises(ValueError, match="closed"):
            ask()
    assert video.problems == []


# When the decoder fails.


def test_a_decoder_that_is_killed_is_an_error_and_the_next_video_gets_another(short: Path) -> None:
    video = GuardedVideoFile(short)
    frames = video.iter_frames_at(video.frame_times_s)
    next(frames)
    os.kill(_child(video), signal.SIGKILL)
    with pytest.raises(VideoError, match=r"died \(killed by SIGKILL\)") as caught:
        list(frames)
    assert str(short) in str(caught.value)
    with pytest.raises(VideoError, match="SIGKILL"):
        video.frames_at([0.0])
    assert video.problems == []
    video.close()
    with GuardedVideoFile(short) as second:
        assert len(second.frames_at([0.0])) == 1


def test_a_decoder_that_hangs_is_stopped(short: Path) -> None:
    # A table that is not there yet, a run of frames, and a run that has begun.
    for begin in (
        lambda video: lambda: video.duration_s,
        lambda video: lambda: video.frames_at([0.0]),
        lambda video: (next(frames := video.iter_frames_at([0.0, 1.0, 1.5])), lambda: list(frames))[1],
    ):
        video = GuardedVideoFile(short, time_limit_s=20.0)
        video._time_limit_s = 0.3
        pid = _child(video)
        hanging = begin(video)
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(VideoError, match=r"more than 0\.3 s.*--video-time-limit") as caught:
            hanging()
        assert str(short) in str(caught.value)
        assert not _is_running(pid)


def test_opening_has_a_limit_too(tmp_path: Path) -> None:
    # A pipe is refused by its kind before it is read, so a process that does not answer is what is left to try.
    path = Recipe("video.mp4", count=5).make(tmp_path)
    video = GuardedVideoFile(path)
    pid = _child(video)
    video.close()
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(VideoError, match=r"more than 0\.2 s"):
        GuardedVideoFile(path, time_limit_s=0.2)
    assert not _is_running(pid)


@pytest.mark.parametrize("limit", [0.0, -1.0, float("nan")])
def test_a_limit_that_makes_no_sense(short: Path, limit: float) -> None:
    with pytest.raises(SettingError, match="positive"):
        GuardedVideoFile(short, time_limit_s=limit)


def test_time_between_two_frames_does_not_count(short: Path) -> None:
    with GuardedVideoFile(short, time_limit_s=2.0) as video:
        frames = video.iter_frames_at(video.frame_times_s)
        next(frames)
        time.sleep(2.1)
        assert len(list(frames)) == 49


def test_the_limit_is_for_all_frames_of_an_iteration_together(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits_s: list[float] = []
    with GuardedVideoFile(short, time_limit_s=60.0) as video:
        ask = video._ask

        def slow(*request: Any, limit_s: float | None = None) -> dict[str, Any]:
            if request[0] == "next":
                assert limit_s is not None
                limits_s.append(limit_s)
                time.sleep(0.1)
            return ask(*request, limit_s=limit_s)

        monkeypatch.setattr(video, "_ask", slow)
        assert len(video.frames_at([0.0, 1.0, 1.5])) == 3
    assert limits_s[0] <= 60.0
    assert all(earlier - later >= 0.1 for earlier, later in pairwise(limits_s))


def test_an_interrupt_ends_the_decoder(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    video = GuardedVideoFile(short)
    pid = _child(video)

    def interrupted(*_: object) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(video._process.connection, "poll", interrupted)  # type: ignore[union-attr]
    with pytest.raises(KeyboardInterrupt):
        video.frames_at([0.0])
    assert not _is_running(pid)
    with pytest.raises(ValueError, match="closed"):
        video.frames_at([0.0])
