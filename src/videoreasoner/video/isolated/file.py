"""A video that is decoded in another process: one that hangs in C code cannot be stopped any other way."""

from __future__ import annotations

import json
import math
import os
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from videoreasoner import errors
from videoreasoner.errors import SettingError, VideoError
from videoreasoner.video.frames import Frames
from videoreasoner.video.isolated.process import DecoderProcess, give, take
from videoreasoner.video.pyav.threads import default_threads
from videoreasoner.video.reader import Times, check_seek, check_side, check_times

DEFAULT_TIME_LIMIT_S = 300.0

Image = NDArray[np.uint8]


def check_time_limit(time_limit_s: float) -> float:
    """Raises:
    SettingError: it is no positive, finite number.
    """
    if not (time_limit_s > 0 and math.isfinite(time_limit_s)):
        raise SettingError(f"the time limit of a video is {time_limit_s} s; give a positive number of seconds.")
    return time_limit_s


class GuardedVideoFile:
    """A `VideoFile` whose decoder runs in a process of its own.

    What it gives is the same; a decoder that dies or takes too long is a VideoError, after which this object is of
    no more use. The process is kept for the next video and ends with the one that started it. It may be used where
    multiprocessing may not, such as in a DataLoader's worker.

    Args:
        source: a path or URL, as for `VideoFile`.
        time_limit_s: how many seconds one call may keep its caller waiting: opening, reading the frame table, one
            `frames_at`, one `iter_frames_at` from its first frame to its last (time between frames, when nobody
            waits, does not count).
        threads: as for `VideoFile`.

    Raises:
        SettingError: a limit that is not positive.
        VideoError: the source cannot be opened, holds no frame that can be decoded, or took too long.
    """

    def __init__(
        self,
        source: str | os.PathLike[str],
        time_limit_s: float = DEFAULT_TIME_LIMIT_S,
        *,
        threads: int | None = None,
    ) -> None:
        self.name = os.fsdecode(source)
        self._time_limit_s = check_time_limit(time_limit_s)
        self._process: DecoderProcess | None = take()
        self._failure: str | None = None
        self._problems: list[str] = []
        self._table: _Table | None = None
        self._numbers = count()
        self._asked: _Run | None = None
        threads = default_threads() if threads is None else max(1, threads)
        try:
            self._facts = self._ask("open", self.name, os.getcwd(), threads)
        except VideoError:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the file back, and its process to the next video. Decoding afterwards is a ValueError."""
        if self._process is None:
            return
        try:
            self._ask("close")
        except VideoError:
            return
        give(self._process)
        self._process = None

    @property
    def width(self) -> int:
        """Pixels from left to right, after rotation."""
        return int(self._facts["width"])

    @property
    def height(self) -> int:
        """Pixels from top to bottom, after rotation."""
        return int(self._facts["height"])

    @property
    def rotation(self) -> int:
        """Degrees, clockwise, that stored pictures are turned by: 0, 90, 180 or 270."""
        return int(self._facts["rotation"])

    @property
    def frame_times_s(self) -> NDArray[np.float64]:
        """float64[N]: when each frame is shown, in seconds, ascending from 0.0."""
        return self._read_table().frames_s

    @property
    def key_times_s(self) -> NDArray[np.float64]:
        """float64[K]: when key frames are shown; empty for a file that does not tell."""
        return self._read_table().keys_s

    @property
    def duration_s(self) -> float:
        """Seconds from the first shown frame to the end of the last one, > 0."""
        return self._read_table().duration_s

    @property
    def fps(self) -> float:
        """Frames per second, averaged over the whole video."""
        return len(self.frame_times_s) / self.duration_s

    @property
    def problems(self) -> list[str]:
        """What could not be read or decoded so far, in sentences; empty for a sound file."""
        if self._process is not None:
            self._problems = self._ask("problems")["problems"]
        return list(self._problems)

    def frames_at(self, times_s: Times, seek: str = "exact", short_side: int | None = None) -> Frames:
        """The frames that are on screen at some times: see `VideoFile.frames_at`."""
        wanted_s = check_times(times_s)
        order = np.argsort(wanted_s, kind="stable")
        run = self._begin(wanted_s[order], seek, short_side)
        pixels = np.empty((len(order), *run.shape), np.uint8)
        run.places = iter([pixels[place] for place in order])
        shown_s = np.empty(len(order), np.float64)
        shown_s[order] = [time_s for time_s, _ in self._images(run)]
        return Frames(pixels, shown_s)

    def iter_frames_at(
        self, times_s: Times, seek: str = "exact", short_side: int | None = None
    ) -> Iterator[tuple[float, Image]]:
        """Like `frames_at`, one frame after the other; the next one is decoded while this one is used."""
        return self._images(self._begin(check_times(times_s), seek, short_side))

    def _begin(self, wanted_s: NDArray[np.float64], seek: str, short_side: int | None) -> _Run:
        check_seek(seek)
        check_side(short_side)
        self._finish_asked()
        self._check_open().memory.put(wanted_s)
        number, started = next(self._numbers), time.monotonic()
        height, width = self._ask("run", number, len(wanted_s), seek, short_side)["size"]
        return _Run(number, (height, width, 3), self._time_limit_s - (time.monotonic() - started))

    def _images(self, run: _Run) -> Iterator[tuple[float, Image]]:
        try:
            while (found := self._next(run)) is not None:
                yield found
        finally:
            if self._process is not None:
                self._send("drop", run.number)

    def _next(self, run: _Run) -> tuple[float, Image] | None:
        if not run.ready:
            if self._asked is not run:
                self._ask_for_next(run)
            self._finish_asked()
        found = run.ready.popleft()
        if isinstance(found, VideoError):
            raise found
        if found is not None:
            # Decoded there while this one is used here.
            self._ask_for_next(run)
        return found

    def _ask_for_next(self, run: _Run) -> None:
        self._finish_asked()
        self._send("next", run.number)
        self._asked = run

    def _finish_asked(self) -> None:
        """Take the frame that was asked for and not waited for, so that the next reply is to the next request."""
        run, self._asked = self._asked, None
        if run is None:
            return
        started = time.monotonic()
        try:
            reply = self._wait(run.left_s)
        except VideoError as error:
            run.ready.append(error)
            return
        run.left_s -= time.monotonic() - started
        if not reply:
            run.ready.append(None)
            return
        image = np.empty(run.shape, np.uint8) if run.places is None else next(run.places)
        image[...] = self._check_open().memory.get(np.uint8, run.shape)
        run.ready.append((float(reply["time_s"]), image))

    def _read_table(self) -> _Table:
        if self._table is None:
            reply = self._ask("table")
            frames, keys = reply["frames"], reply["keys"]
            times_s = self._check_open().memory.get(np.float64, [frames + keys]).copy()
            self._table = _Table(float(reply["duration_s"]), times_s[:frames], times_s[frames:])
        return self._table

    def _ask(self, *request: Any) -> dict[str, Any]:
        self._finish_asked()
        self._send(*request)
        return self._wait(self._time_limit_s)

    def _send(self, *request: Any) -> None:
        try:
            self._check_open().connection.send_bytes(json.dumps(request).encode())
        except OSError:
            # It is dead, which whoever waits for the reply is told.
            return

    def _wait(self, limit_s: float) -> dict[str, Any]:
        process = self._check_open()
        try:
            if not process.connection.poll(max(0.0, limit_s)):
                raise self._failed(
                    f"decoding took more than {self._time_limit_s:g} s and was stopped; get an undamaged copy, "
                    "or allow it more time (--video-time-limit)."
                )
            reply: dict[str, Any] = json.loads(process.connection.recv_bytes())
        except (EOFError, OSError):
            raise self._failed(
                f"its decoder died ({process.how_it_ended()}); get an undamaged copy, or convert it to mp4 (H.264)."
            ) from None
        except BaseException:
            # Interrupted: a reply that nobody waits for any more would be taken for that to the next request.
            process.kill()
            self._process = None
            raise
        if "error" in reply:
            raise getattr(errors, reply["error"])(reply["message"])
        return reply

    def _failed(self, why: str) -> VideoError:
        """Give up the process."""
        if self._process is not None:
            self._process.kill()
            self._process = None
        self._failure = f"{self.name}: {why}"
        return VideoError(self._failure)

    def _check_open(self) -> DecoderProcess:
        if self._failure is not None:
            raise VideoError(self._failure)
        if self._process is None:
            raise ValueError(f"{self.name} has been closed; open it again")
        return self._process


@dataclass(eq=False)
class _Run:
    """Frames that are being read: what has come and was not used yet, ended by None or an error."""

    number: int
    shape: tuple[int, int, int]
    left_s: float
    places: Iterator[Image] | None = None
    ready: deque[tuple[float, Image] | VideoError | None] = field(default_factory=deque)


class _Table(NamedTuple):
    duration_s: float
    frames_s: NDArray[np.float64]
    keys_s: NDArray[np.float64]
