"""A video that is decoded in another process, because only a process can be stopped when it hangs in C code."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator
from itertools import count
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from videoreasoner import errors
from videoreasoner.errors import SettingError, VideoError
from videoreasoner.video.frames import Frames
from videoreasoner.video.isolated.process import DecoderProcess, give_back, take_process
from videoreasoner.video.reader import (
    ShortSide,
    Times,
    check_download_limit,
    check_seek,
    check_sides,
    check_times,
    collect_frames,
    decoding_threads,
)

DEFAULT_TIME_LIMIT_S = 300.0


def check_time_limit(time_limit_s: float) -> float:
    """Raises:
    SettingError: it is no positive, finite number.
    """
    if not (time_limit_s > 0 and math.isfinite(time_limit_s)):
        raise SettingError(f"the time limit of a video is {time_limit_s} s; give a positive number of seconds.")
    return time_limit_s


class GuardedVideoFile:
    """A `VideoFile` whose decoder runs in a process of its own.

    It gives the same frames. A decoder that dies or takes too long is a VideoError, after which this object cannot be
    used any more. The process is kept for the next video and ends with the process that started it. This class also
    works where multiprocessing does not, such as in a worker of a DataLoader.

    Args:
        source: a path or URL, as for `VideoFile`.
        time_limit_s: how many seconds one call may keep its caller waiting. A call is: opening, reading the frame
            table, one `frames_at`, or one `iter_frames_at` from its first frame to its last (without the time that
            the caller spends between frames).
        threads, download_limit_mb: as for `VideoFile`. Fetching a video is part of opening it.

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
        download_limit_mb: float | None = None,
    ) -> None:
        self.name = os.fsdecode(source)
        self._time_limit_s = check_time_limit(time_limit_s)
        most_mb = check_download_limit(download_limit_mb)
        self._process: DecoderProcess | None = take_process()
        self._failure: str | None = None
        self._problems: list[str] = []
        self._table: _Table | None = None
        self._numbers = count()
        try:
            self._facts = self._ask("open", self.name, os.getcwd(), decoding_threads(threads), most_mb)
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
        """Close the file and keep its process for the next video. Decoding afterwards is a ValueError."""
        if self._process is None:
            return
        try:
            self._ask("close")
        except VideoError:
            return
        give_back(self._process)
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
        return self._read_table().frame_times_s

    @property
    def key_times_s(self) -> NDArray[np.float64]:
        """float64[K]: when key frames are shown, in seconds; empty for a file that does not say."""
        return self._read_table().key_times_s

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
        return collect_frames(self, times_s, seek, short_side)

    def iter_frames_at(
        self, times_s: Times, seek: str = "exact", short_side: ShortSide = None
    ) -> Iterator[tuple[float, NDArray[np.uint8]]]:
        """Like `frames_at`, one frame after the other: see `VideoFile.iter_frames_at`."""
        wanted_s = check_times(times_s)
        number, started = next(self._numbers), time.monotonic()
        self._ask("iterate", number, wanted_s.tolist(), check_seek(seek), check_sides(short_side, len(wanted_s)))
        return self._images(number, self._time_limit_s - (time.monotonic() - started))

    def _images(self, number: int, left_s: float) -> Iterator[tuple[float, NDArray[np.uint8]]]:
        """The frames of iterator `number`, for which the caller may wait `left_s` seconds together."""
        try:
            while True:
                started = time.monotonic()
                reply = self._ask("next", number, limit_s=left_s)
                left_s -= time.monotonic() - started
                if not reply:
                    return
                yield float(reply["time_s"]), reply["image"]
        finally:
            if self._process is not None:
                self._send("drop", number)

    def _read_table(self) -> _Table:
        if self._table is None:
            reply = self._ask("table")
            frame_times_s, key_times_s = (np.array(reply[name], np.float64) for name in _Table._fields[:2])
            self._table = _Table(frame_times_s, key_times_s, float(reply["duration_s"]))
        return self._table

    def _ask(self, *request: Any, limit_s: float | None = None) -> dict[str, Any]:
        """Send a request and wait for the reply; pixels that come with it are its "image"."""
        self._send(*request)
        process = self._check_open()
        connection = process.connection
        try:
            # The child sends a reply only when it is complete, so it is enough to wait for its first byte.
            if not connection.poll(max(0.0, self._time_limit_s if limit_s is None else limit_s)):
                raise self._failed(
                    f"decoding took more than {self._time_limit_s:g} s and was stopped; get an undamaged copy, "
                    "or allow it more time (--video-time-limit)."
                )
            reply: dict[str, Any] = json.loads(connection.recv_bytes())
            if "shape" in reply:
                reply["image"] = np.empty(reply["shape"], np.uint8)
                connection.recv_bytes_into(reply["image"].reshape(-1).data)
        except (EOFError, OSError):
            raise self._failed(
                f"its decoder died ({process.how_it_ended()}); get an undamaged copy, or convert it to mp4 (H.264)."
            ) from None
        except BaseException:
            # After an interrupt, the unread reply would be taken for the reply to the next request.
            process.kill()
            self._process = None
            raise
        if "error" in reply:
            raise getattr(errors, reply["error"])(reply["message"])
        return reply

    def _send(self, *request: Any) -> None:
        try:
            self._check_open().connection.send_bytes(json.dumps(request).encode())
        except OSError:
            # The process is dead; waiting for the reply reports it.
            return

    def _failed(self, why: str) -> VideoError:
        """Give up the process, and make the error that says why."""
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


class _Table(NamedTuple):
    frame_times_s: NDArray[np.float64]
    key_times_s: NDArray[np.float64]
    duration_s: float
