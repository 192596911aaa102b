"""The decoder's processes: one is used again for the next video, and none outlives the process that started it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.video.videos import RECIPES
from videoreasoner.video.isolated import process
from videoreasoner.video.isolated.file import GuardedVideoFile


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return RECIPES["short gops, b-frames"].make(tmp_path_factory.mktemp("videos"))


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


def test_an_idle_process_that_was_killed_is_not_used(short: Path) -> None:
    video = GuardedVideoFile(short)
    idle, pid = video._process, _child(video)
    video.close()
    os.kill(pid, signal.SIGKILL)
    # Not by its state: that is the first thread's, and the others may take a moment longer.
    while idle is not None and idle.is_alive():
        time.sleep(0.01)
    with GuardedVideoFile(short) as second:
        assert _child(second) != pid


def test_two_processes_at_most_are_kept(short: Path) -> None:
    videos = [GuardedVideoFile(short) for _ in range(3)]
    pids = [_child(each) for each in videos]
    for each in videos:
        each.close()
    assert [each.pid for each in process._idle] == pids[:2]
    assert [_is_running(pid) for pid in pids] == [True, True, False]


def test_one_process_serves_one_video_after_the_other(short: Path) -> None:
    pids = set()
    for _ in range(3):
        with GuardedVideoFile(short) as video:
            pids.add(_child(video))
    assert len(pids) == 1
    with GuardedVideoFile(short) as one, GuardedVideoFile(short) as two:
        assert _child(one) != _child(two)


def test_a_process_can_be_started_ahead(short: Path) -> None:
    process.start_decoder()
    [waiting] = process._idle[-1:]
    process.start_decoder()
    with GuardedVideoFile(short) as video:
        assert _child(video) == waiting.pid


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
    with GuardedVideoFile(path) as video:
        results.put((_child(video), video.frames_at([1.0]).times_s.tolist()))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_it_works_in_a_daemonic_process_and_a_fork_gets_its_own(
    short: Path, video: GuardedVideoFile, method: str
) -> None:
    GuardedVideoFile(short).close()
    context = multiprocessing.get_context(method)
    results = context.Queue()
    worker = context.Process(target=_in_a_daemon, args=(short, results), daemon=True)
    worker.start()
    pid, times_s = results.get(timeout=120)
    worker.join()
    assert times_s == [1.0]
    assert pid not in {_child(video), *(each.pid for each in process._idle)}
    assert len(video.frames_at([0.0])) == 1


def test_a_process_is_replaced_after_many_videos_and_open_videos_go_on(
    short: Path, video: GuardedVideoFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    process._end_idle()
    monkeypatch.setattr(process, "_MOST_VIDEOS", 3)
    pids = []
    for _ in range(7):
        with GuardedVideoFile(short) as each:
            pids.append(_child(each))
    assert pids == [pids[0]] * 3 + [pids[3]] * 3 + [pids[6]]
    assert len(set(pids)) == 3
    assert [_is_running(pid) for pid in (pids[0], pids[3])] == [False, False]
    assert len(video.frames_at([0.0])) == 1


_WAIT_FOR_THE_PARENT = """
import os, sys
from videoreasoner.video.isolated import child
def no_such_call(*_): raise OSError
if sys.argv[2] == "by looking": os.pidfd_open = no_such_call
child._LOOK_EVERY_S = 0.1 if sys.argv[2] == "by looking" else 1e6
os._exit = lambda code: print("ended", flush=True) or sys.exit()
print("waits", flush=True)
child._end_with(int(sys.argv[1]))
"""
_START_AND_WAIT = """
import os, subprocess, sys, time
subprocess.Popen([sys.executable, "-c", sys.argv[1], str(os.getpid()), sys.argv[2]])
time.sleep(60)
"""


@pytest.mark.parametrize("told", ["by the kernel", "by looking"])
def test_it_learns_of_its_parents_end(told: str) -> None:
    command = [sys.executable, "-c", _START_AND_WAIT, _WAIT_FOR_THE_PARENT, told]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    assert parent.stdout.readline() == "waits\n"
    parent.kill()
    # The pipe is closed when the child has ended, too.
    assert parent.communicate(timeout=30)[0] == "ended\n"
