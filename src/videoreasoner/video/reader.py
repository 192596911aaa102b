"""What a video that can be looked into does: the interface that every decoder back end fits behind."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Literal, Protocol, Self, cast, get_args

import numpy as np
from numpy.typing import NDArray

from videoreasoner.errors import SettingError
from videoreasoner.video.frames import Frames

Seek = Literal["exact", "keyframe"]
Times = Sequence[float] | NDArray[np.float64]


class VideoReader(Protocol):
    """A video: `VideoFile` in this process, `GuardedVideoFile` in another; a back end of your own fits as well.

    Time 0 is when the first frame is shown; times and frames mean what they mean for `VideoFile`. A source that
    cannot be used is a VideoError whose one line names it.
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
        self, times_s: Times, seek: str = "exact", short_side: int | None = None
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


def nearest(sorted_s: NDArray[np.float64], wanted_s: NDArray[np.float64]) -> NDArray[np.int64]:
    """int64[T]: which of some ascending times (at least one) is nearest to each wanted one; of two, the earlier."""
    right = np.minimum(np.searchsorted(sorted_s, wanted_s), len(sorted_s) - 1)
    left = np.maximum(right - 1, 0)
    return np.where(wanted_s - sorted_s[left] <= sorted_s[right] - wanted_s, left, right)
