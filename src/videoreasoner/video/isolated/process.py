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
from videoreasoner.video.isolated.shared import SharedMemory

# Kept for the next video; opening more videos than this at once costs a start each.
_MOST_IDLE = 2


class DecoderProcess:
    """A running `videoreasoner.video.isolated.child`."""

    def __init__(self) -> None:
        self.connection, theirs = multiprocessing.Pipe()
        self.memory = SharedMemory()
        descriptors = (theirs.fileno(), self.memory.descriptor)
        package = str(Path(errors.__file__).parents[1])
        paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
        with theirs:
            self._process = subprocess.Popen(
                # -P: a file named numpy.py in the current folder is not numpy.
                [
                    sys.executable,
                    "-P",
                    "-m",
                    "videoreasoner.video.isolated.child",
                    *map(str, (os.getpid(), *descriptors)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=descriptors,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
                # An interrupt from the keyboard is for the process that knows what to do about it.
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
        self._let_go()

    def how_it_ended(self) -> str:
        self._let_go()
        try:
            code = self._process.wait(timeout=5.0)
        except subprocess.TimeoutExpired:
            return "it closed its connection"
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    def _let_go(self) -> None:
        self.connection.close()
        self.memory.close()


# By process: what a fork inherits belongs to its parent.
_idle: dict[int, list[DecoderProcess]] = {}


def start_decoder() -> None:
    """Have a process ready for the next video; it starts while something else, such as loading a model, goes on."""
    waiting = _idle.setdefault(os.getpid(), [])
    if not waiting:
        waiting.append(DecoderProcess())


def take() -> DecoderProcess:
    """A process for one video: one that waits, or a new one."""
    waiting = _idle.setdefault(os.getpid(), [])
    while waiting:
        process = waiting.pop()
        if process.is_alive():
            return process
        process.kill()
    return DecoderProcess()


def give(process: DecoderProcess) -> None:
    """Keep a process whose video has been closed for the next one."""
    waiting = _idle.setdefault(os.getpid(), [])
    if len(waiting) < _MOST_IDLE:
        waiting.append(process)
    else:
        process.kill()


@atexit.register
def _end_idle() -> None:
    for process in _idle.pop(os.getpid(), []):
        process.kill()
