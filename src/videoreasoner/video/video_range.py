"""A part of a video, from one time to another, as a video of its own."""

from __future__ import annotations

import math
from collections.abc import Iterator
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from videoreasoner.errors import SettingError
from videoreasoner.spans import Span
from videoreasoner.video.frames import Frames
from videoreasoner.video.reader import ShortSide, Times, VideoReader, check_seek, check_times, collect_frames


class VideoRange:
    """The frames of a video that are on screen between two times: a `VideoReader`.

    Its time 0 is when its first frame is shown in the video, `span.start_s`. It does not close the video.

    Args:
        video: the whole video.
        start_s: seconds. The frame that is on screen then is the first one.
        end_s: seconds; None, or a time behind the end, is the end of the video.

    Raises:
        SettingError: the times are not in order, or lie outside the video.
    """

    def __init__(self, video: VideoReader, start_s: float = 0.0, end_s: float | None = None) -> None:
        end_s = video.duration_s if end_s is None else min(end_s, video.duration_s)
        if not (math.isfinite(start_s) and math.isfinite(end_s) and 0 <= start_s < end_s):
            raise SettingError(
                f"{video.name}: there is nothing from {start_s:g} s to {end_s:g} s; the video lasts "
                f"{video.duration_s:g} s, and a range needs a start before its end"
            )
        times_s = video.frame_times_s
        first = max(0, int(np.searchsorted(times_s, start_s, side="right")) - 1)
        self.video = video
        self.span = Span(float(times_s[first]), end_s)
        self._shown_s, self._keys_s = (
            given_s[(given_s >= self.span.start_s) & (given_s < end_s)] for given_s in (times_s, video.key_times_s)
        )
        self.frame_times_s = self._shown_s - self.span.start_s
        self.key_times_s = self._keys_s - self.span.start_s
        self.duration_s = self.span.length_s

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Nothing is to be closed: the video belongs to the caller."""

    @property
    def name(self) -> str:
        return self.video.name

    @property
    def width(self) -> int:
        return self.video.width

    @property
    def height(self) -> int:
        return self.video.height

    @property
    def rotation(self) -> int:
        return self.video.rotation

    @property
    def fps(self) -> float:
        return self.video.fps

    @property
    def problems(self) -> list[str]:
        return self.video.problems

    def frames_at(self, times_s: Times, seek: str = "exact", short_side: int | None = None) -> Frames:
        """See `VideoReader`."""
        return collect_frames(self, times_s, seek, short_side)

    def iter_frames_at(
        self, times_s: Times, seek: str = "exact", short_side: ShortSide = None
    ) -> Iterator[tuple[float, NDArray[np.uint8]]]:
        """See `VideoReader`. Times outside the range give its first or last frame."""
        wanted_s = check_times(times_s)
        if check_seek(seek) == "keyframe" and len(self._keys_s):
            # The nearest key frame of the video may lie outside the range.
            found = np.abs(self.key_times_s - wanted_s[:, None]).argmin(axis=1)
            shown_s = self._keys_s[found]
        else:
            found = np.searchsorted(self.frame_times_s, wanted_s, side="right") - 1
            shown_s = self._shown_s[np.maximum(found, 0)]
        # Times of frames, because a sum of two rounded times may lie just before its frame.
        for time_s, image in self.video.iter_frames_at(shown_s, "exact", short_side):
            yield time_s - self.span.start_s, image
