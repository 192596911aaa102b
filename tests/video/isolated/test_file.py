from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.video.videos import RECIPES, Recipe, overwrite_packets
from videoreasoner.errors import SettingError, VideoError
from videoreasoner.video.isolated import process
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
def video_file(short: Path) -> Iterator[GuardedVideoFile]:
    with GuardedVideoFile(short) as opened:
        yield opened


def _child(video_file: GuardedVideoFile) -> int:
    assert video_file._process is not None
    return video_file._process.pid


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


def test_problems_cross_over(tmp_path: Path) -> None:
    path = RECIPES["all key frames"].make(tmp_path)
    overwrite_packets(path, {20, 21}.__contains__)
    with VideoFile(path) as here, GuardedVideoFile(path) as there:
        assert np.array_equal(*(each.frames_at(each.frame_times_s).pixels for each in (here, there)))
        assert there.problems == here.problems != []


def test_iterating_and_jumping_do_not_disturb_each_other(short: Path, video_file: GuardedVideoFile) -> None:
    with VideoFile(short) as here:
        expected = here.frames_at(here.frame_times_s).pixels
    times_s = video_file.frame_times_s
    other = video_file.iter_frames_at(times_s[::-1])
    for position, (time_s, image) in enumerate(video_file.iter_frames_at(times_s)):
        assert time_s == times_s[position]
        assert np.array_equal(image, expected[position])
        image[:] = 0
        if position % 7 == 0:
            assert np.array_equal(video_file.frames_at([1.9, 0.0]).pixels, expected[[47, 0]])
            time_s, image = next(other)
            assert np.array_equal(image, expected[times_s.tolist().index(time_s)])
            assert video_file.problems == []


def test_an_iteration_may_be_left(short: Path, video_file: GuardedVideoFile) -> None:
    for _ in range(3):
        next(video_file.iter_frames_at(video_file.frame_times_s))
    assert len(video_file.frames_at([0.0])) == 1


@pytest.mark.parametrize("times_s", [[], [float("nan")], [[0.0]], 1.0, ["soon"]])
def test_times_that_make_no_sense(video_file: GuardedVideoFile, times_s: list) -> None:
    for ask in (video_file.frames_at, video_file.iter_frames_at):
        with pytest.raises(SettingError, match="times_s"):
            ask(times_s)
    with pytest.raises(SettingError, match="exact, keyframe"):
        video_file.frames_at([0.0], seek="nearest")
    with pytest.raises(SettingError, match="short_side"):
        video_file.frames_at([0.0], short_side=0)
    assert len(video_file.frames_at([0.0])) == 1


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
        with GuardedVideoFile(short.relative_to(folder)) as video_file:
            assert video_file.duration_s == pytest.approx(2.0)


def test_a_closed_video_says_so(short: Path) -> None:
    video_file = GuardedVideoFile(short)
    video_file.close()
    video_file.close()
    for ask in (
        lambda: video_file.duration_s,
        lambda: video_file.frames_at([0.0]),
        lambda: video_file.iter_frames_at([0.0]),
    ):
        with pytest.raises(ValueError, match="closed"):
            ask()
    assert video_file.problems == []


# When the decoder fails.


def test_a_decoder_that_is_killed_is_an_error_and_the_next_video_gets_another(short: Path) -> None:
    video_file = GuardedVideoFile(short)
    frames = video_file.iter_frames_at(video_file.frame_times_s)
    next(frames)
    os.kill(_child(video_file), signal.SIGKILL)
    with pytest.raises(VideoError, match=r"died \(killed by SIGKILL\)") as caught:
        list(frames)
    assert str(short) in str(caught.value)
    with pytest.raises(VideoError, match="SIGKILL"):
        video_file.frames_at([0.0])
    assert video_file.problems == []
    video_file.close()
    with GuardedVideoFile(short) as second:
        assert len(second.frames_at([0.0])) == 1


def test_a_waiting_process_that_was_killed_is_not_used(short: Path) -> None:
    video_file = GuardedVideoFile(short)
    waiting, pid = video_file._process, _child(video_file)
    video_file.close()
    os.kill(pid, signal.SIGKILL)
    # Not by its state: that is the first thread's, and the others may take a moment longer.
    while waiting is not None and waiting.is_alive():
        time.sleep(0.01)
    with GuardedVideoFile(short) as second:
        assert _child(second) != pid


def test_a_decoder_that_hangs_is_stopped(short: Path) -> None:
    # A table that is not there yet, a run of frames, and a run that has begun.
    for begin in (
        lambda video_file: lambda: video_file.duration_s,
        lambda video_file: lambda: video_file.frames_at([0.0]),
        lambda video_file: (next(frames := video_file.iter_frames_at([0.0, 1.0, 1.5])), lambda: list(frames))[1],
    ):
        video_file = GuardedVideoFile(short, time_limit_s=20.0)
        video_file._time_limit_s = 0.3
        pid = _child(video_file)
        hanging = begin(video_file)
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(VideoError, match=r"more than 0\.3 s.*--video-time-limit") as caught:
            hanging()
        assert str(short) in str(caught.value)
        assert not _is_running(pid)


def test_opening_has_a_limit_too(tmp_path: Path) -> None:
    # A pipe is refused by its kind before it is read, so a process that does not answer is what is left to try.
    path = Recipe("video.mp4", count=5).make(tmp_path)
    video_file = GuardedVideoFile(path)
    pid = _child(video_file)
    video_file.close()
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(VideoError, match=r"more than 0\.2 s"):
        GuardedVideoFile(path, time_limit_s=0.2)
    assert not _is_running(pid)


@pytest.mark.parametrize("limit", [0.0, -1.0, float("nan")])
def test_a_limit_that_makes_no_sense(short: Path, limit: float) -> None:
    with pytest.raises(SettingError, match="positive"):
        GuardedVideoFile(short, time_limit_s=limit)


def test_time_that_nobody_waits_does_not_count(short: Path) -> None:
    with GuardedVideoFile(short) as video_file:
        frames = video_file.iter_frames_at(video_file.frame_times_s)
        next(frames)
        run = video_file._asked
        assert run is not None
        before, started = run.left_s, time.monotonic()
        time.sleep(0.6)
        assert len(list(frames)) == 49
        assert before - run.left_s <= time.monotonic() - started - 0.6


def test_an_interrupt_ends_the_decoder(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    video_file = GuardedVideoFile(short)
    pid = _child(video_file)

    def interrupted(*_: object) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(video_file._process.connection, "poll", interrupted)  # type: ignore[union-attr]
    with pytest.raises(KeyboardInterrupt):
        video_file.frames_at([0.0])
    assert not _is_running(pid)
    with pytest.raises(ValueError, match="closed"):
        video_file.frames_at([0.0])


# Processes


def test_one_process_serves_one_video_after_the_other(short: Path) -> None:
    pids = set()
    for _ in range(3):
        with GuardedVideoFile(short) as video_file:
            pids.add(_child(video_file))
    assert len(pids) == 1
    with GuardedVideoFile(short) as one, GuardedVideoFile(short) as two:
        assert _child(one) != _child(two)


def test_a_process_can_be_started_ahead(short: Path) -> None:
    process.start_decoder()
    [waiting] = process._idle[os.getpid()][-1:]
    process.start_decoder()
    with GuardedVideoFile(short) as video_file:
        assert _child(video_file) == waiting.pid


def test_the_process_loads_neither_torch_nor_a_model() -> None:
    code = "import sys, videoreasoner.video.isolated.child; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "videoreasoner.video.pyav.file" in loaded
    assert not loaded & {"torch", "transformers", "PIL", "pydantic"}


_OPEN_AND_WAIT = """
import os, sys, time
from videoreasoner.video.isolated.file import GuardedVideoFile
video = GuardedVideoFile(sys.argv[1])
fork = os.fork() if sys.argv[2] == "fork" else 0
if fork or sys.argv[2] == "alone":
    print(video._process.pid, fork, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("how", ["alone", "fork"])
def test_it_dies_with_its_parent(short: Path, how: str) -> None:
    # A fork of the parent holds its end of the connection open: only the parent's death itself can be noticed.
    command = [sys.executable, "-c", _OPEN_AND_WAIT, str(short), how]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid, fork = map(int, parent.stdout.readline().split())
    assert _is_running(pid)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    until = time.monotonic() + 20
    while _is_running(pid) and time.monotonic() < until:
        time.sleep(0.05)
    assert not _is_running(pid)
    if fork:
        os.kill(fork, signal.SIGKILL)


def _in_a_daemon(path: Path, results: multiprocessing.Queue) -> None:
    with GuardedVideoFile(path) as video_file:
        results.put((_child(video_file), video_file.frames_at([1.0]).times_s.tolist()))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_it_works_in_a_daemonic_process_and_a_fork_gets_its_own(
    short: Path, video_file: GuardedVideoFile, method: str
) -> None:
    GuardedVideoFile(short).close()
    context = multiprocessing.get_context(method)
    results = context.Queue()
    worker = context.Process(target=_in_a_daemon, args=(short, results), daemon=True)
    worker.start()
    pid, times_s = results.get(timeout=120)
    worker.join()
    assert times_s == [1.0]
    assert pid not in {_child(video_file), *(each.pid for each in process._idle[os.getpid()])}
    assert len(video_file.frames_at([0.0])) == 1
