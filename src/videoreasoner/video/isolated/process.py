"""The processes that decode videos for this one: starting, keeping and ending them."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

from videoreasoner import errors

# Starting a process takes about 0.4 s, many times what a short video takes to decode, so the next video uses it again.
_MOST_IDLE = 2
# FFmpeg leaves about 12 KB behind for each H.264 video, so a process is replaced after some time.
_MOST_VIDEOS = 500


class DecoderProcess:
    """A running `videoreasoner.video.isolated.child`, and the connection to it.

    Attributes:
        videos: how many it has been taken for so far.
    """

    def __init__(self) -> None:
        self.videos = 0
        self.connection, theirs = multiprocessing.Pipe()
        package = str(Path(errors.__file__).parents[1])
        paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
        child = ["videoreasoner.video.isolated.child", str(os.getpid()), str(theirs.fileno())]
        with theirs:
            self._process = subprocess.Popen(
                # -P: a file named numpy.py in the current folder is not numpy.
                [sys.executable, "-P", "-m", *child],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
                # An interrupt from the keyboard must reach the parent only.
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self.connection.close()

    def how_it_ended(self) -> str:
        """Words for an error message about a process whose connection has ended."""
        self.connection.close()
        try:
            code = self._process.wait(timeout=5.0)
        except subprocess.TimeoutExpired:
            return "it closed its connection"
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


_idle: list[DecoderProcess] = []
# The processes that a fork inherits belong to its parent.
os.register_at_fork(after_in_child=_idle.clear)


def start_decoder() -> None:
    """Have a process ready for the next video. It starts in the background, for example while a model loads."""
    if not _idle:
        _idle.append(DecoderProcess())


def take_process() -> DecoderProcess:
    """A process for one video: an idle one, or a new one."""
    while _idle and not _idle[-1].is_alive():
        _idle.pop().kill()
    process = _idle.pop() if _idle else DecoderProcess()
    process.videos += 1
    return process


def give_back(process: DecoderProcess) -> None:
    """Keep a process whose video has been closed for the next video, unless it has served many."""
    if len(_idle) < _MOST_IDLE and process.videos < _MOST_VIDEOS:
        _idle.append(process)
    else:
        process.kill()


@atexit.register
def _end_idle() -> None:
    while _idle:
        _idle.pop().kill()
