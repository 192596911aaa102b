"""The interface of a video reader, which every decoder back end implements, and what the back ends share."""

from __future__ import annotations

import math
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Literal, Protocol, Self, cast, get_args

import numpy as np
from numpy.typing import NDArray

from videoreasoner.errors import SettingError
from videoreasoner.video.frames import Frames

Seek = Literal["exact", "keyframe"]
Times = Sequence[float] | NDArray[np.float64]
# One for all frames, or one for each of them.
ShortSide = int | None | Sequence[int | None]
_MOST_THREADS = 8
_DOWNLOAD_LIMIT_MB = 2048.0


class VideoReader(Protocol):
    """A video whose frames can be decoded: `VideoFile` in this process, `GuardedVideoFile` in another one.

    Other back ends implement the same methods. Times and frames mean what they mean for `VideoFile`: time 0 is when
    the first frame is shown. A source that cannot be used is a VideoError whose message is one line and names it.
    """

    @property
    def name(self) -> str: ...
    @property
    def width(self) -> int: ...
    @property
    def height(self) -> int: ...
    @property
    def rotation(self) -> int: ...
    @property
    def frame_times_s(self) -> NDArray[np.float64]: ...
    @property
    def key_times_s(self) -> NDArray[np.float64]: ...
    @property
    def duration_s(self) -> float: ...
    @property
    def fps(self) -> float: ...
    @property
    def problems(self) -> list[str]: ...
    def frames_at(self, times_s: Times, seek: str = "exact", short_side: int | None = None) -> Frames: ...
    def iter_frames_at(
        self, times_s: Times, seek: str = "exact", short_side: ShortSide = None
    ) -> Iterator[tuple[float, NDArray[np.uint8]]]: ...
    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def check_times(times_s: Times) -> NDArray[np.float64]:
    """Times as float64[T].

    Raises:
        SettingError: they are not a list of at least one finite number.
    """
    try:
        wanted_s = np.asarray(times_s, np.float64)
    except (TypeError, ValueError) as error:
        raise SettingError(f"times_s must be a list of seconds, not {times_s!r}.") from error
    if wanted_s.ndim != 1 or not len(wanted_s):
        raise SettingError("times_s must be a list of at least one time in seconds.")
    if not np.isfinite(wanted_s).all():
        odd = wanted_s[~np.isfinite(wanted_s)][0]
        raise SettingError(f"times_s holds {odd}; give finite times in seconds.")
    return wanted_s


def check_seek(seek: str) -> Seek:
    """Raises:
    SettingError: there is no such way to seek.
    """
    if seek not in get_args(Seek):
        raise SettingError(f"seek is {seek!r}; choose one of {', '.join(get_args(Seek))}.")
    return cast(Seek, seek)


def check_side(short_side: int | None) -> int | None:
    """Raises:
    SettingError: no picture is that small.
    """
    if short_side is not None and short_side < 1:
        raise SettingError(f"short_side is {short_side}; give at least 1 pixel.")
    return short_side


def check_download_limit(limit_mb: float | None) -> float:
    """How many megabytes (2**20 bytes) of a video may be fetched into a temporary file.

    None is what `VIDEOREASONER_DOWNLOAD_LIMIT_MB` says, or 2048.

    Raises:
        SettingError: it is no positive, finite number.
    """
    given = os.environ.get("VIDEOREASONER_DOWNLOAD_LIMIT_MB", _DOWNLOAD_LIMIT_MB) if limit_mb is None else limit_mb
    try:
        limit = float(given)
    except ValueError:
        limit = math.nan
    if not (limit > 0 and math.isfinite(limit)):
        raise SettingError(
            f"the limit of a download (VIDEOREASONER_DOWNLOAD_LIMIT_MB) is {given!r}; give a positive number of MB."
        )
    return limit


def check_sides(short_side: ShortSide, count: int) -> list[int | None]:
    """The short side of each of `count` frames.

    Raises:
        SettingError: there are more or fewer sides than frames, or a picture cannot be that small.
    """
    if not isinstance(short_side, Sequence):
        return [check_side(short_side)] * count
    if len(short_side) != count:
        raise SettingError(f"short_side has {len(short_side)} values for {count} times; give one for each, or one.")
    return [check_side(side) for side in short_side]


def decoding_threads(threads: int | None) -> int:
    """How many threads may decode: at least 1. None is one for each core of this process, at most 8.

    In a worker process (a DataLoader's, for example) None is 1, because workers share the cores among themselves.
    """
    if threads is not None:
        return max(1, threads)
    if multiprocessing.parent_process() is not None:
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(_MOST_THREADS, cores)


def collect_frames(video: VideoReader, times_s: Times, seek: str, short_side: int | None) -> Frames:
    """`frames_at` made of `iter_frames_at`: the video is decoded in its own order, whatever the order of the times.

    Raises:
        SettingError, VideoError: as `VideoReader.iter_frames_at`.
    """
    wanted_s = check_times(times_s)
    order = np.argsort(wanted_s, kind="stable")
    shown_s = np.empty(len(order), np.float64)
    pixels: NDArray[np.uint8] | None = None
    for place, (time_s, image) in zip(order, video.iter_frames_at(wanted_s[order], seek, short_side), strict=True):
        if pixels is None:
            pixels = np.empty((len(order), *image.shape), np.uint8)
        pixels[place], shown_s[place] = image, time_s
    assert pixels is not None, "there is at least one time"
    return Frames(pixels, shown_s)
