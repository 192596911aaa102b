"""A film: what it is, and its frames at any times."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self, get_args

import numpy as np
from av.error import FFmpegError
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from videoreasoner.errors import SettingError, VideoError
from videoreasoner.video.decoder import Decoder
from videoreasoner.video.frames import Frames

Seek = Literal["exact", "keyframe"]


class VideoFile:
    """A film on disk or behind a URL; its frames are decoded when asked for.

    Time 0 is when the first frame is shown, and a frame is on screen until the next one is.
    Frames come upright, and equal to those of a decode of the whole film straight through.
    One thread at a time may use it.

    Args:
        source: a path, or a URL (http://, https://, file://). A file on disk never makes this
            class reach for the network, not even if the file says so.

    Raises:
        VideoError: the source cannot be opened, or holds no frame that can be decoded.
    """

    def __init__(self, source: str | os.PathLike[str]) -> None:
        self._decoder = Decoder(os.fsdecode(source))
        self._reformatter = VideoReformatter()
        first = self._decoder.first_frame()
        self._coded_size = first.width, first.height
        self._upright = _Upright.of(first)
        try:
            self._height, self._width, _ = self._pixels(first).shape
        except FFmpegError as error:
            raise VideoError(
                f"{self._decoder.name}: its pixel format {first.format.name} cannot be turned "
                "into RGB; convert the film to yuv420p."
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the file back. Decoding afterwards is a ValueError."""
        self._decoder.close()

    @property
    def width(self) -> int:
        """Pixels from left to right, after rotation."""
        return self._width

    @property
    def height(self) -> int:
        """Pixels from top to bottom, after rotation."""
        return self._height

    @property
    def rotation(self) -> int:
        """Degrees, clockwise, that stored pictures are turned by: 0, 90, 180 or 270."""
        return self._upright.degrees

    @property
    def frame_times_s(self) -> NDArray[np.float64]:
        """float64[N]: when each frame is shown, in seconds, ascending from 0.0.

        The first use reads through the whole file once, without decoding.

        Raises:
            VideoError: the file lists no frame.
        """
        return self._decoder.index.seconds(self._decoder.index.stamps)

    @property
    def duration_s(self) -> float:
        """Seconds from the first shown frame to the end of the last one, > 0."""
        index = self._decoder.index
        return float(index.seconds(np.array([index.end]))[0])

    @property
    def fps(self) -> float:
        """Frames per second, averaged over the whole film."""
        return len(self.frame_times_s) / self.duration_s

    @property
    def problems(self) -> list[str]:
        """What could not be read or decoded so far, in sentences; empty for a sound file."""
        return self._decoder.problems()

    def frames_at(self, times_s: Sequence[float] | NDArray[np.float64], seek: str = "exact") -> Frames:
        """The frames that are on screen at some times.

        Args:
            times_s: seconds, in any order, repeated at will. A time before the first frame
                means the first frame, a time after the end the last one.
            seek: "exact", or "keyframe" for the key frame nearest to each time: faster, and
                off by up to half the distance between key frames. A file that does not tell
                where its key frames are shown gives exact frames for both.

        Returns:
            One frame for each time, in the order of the times, with the times at which these
            frames are truly first shown. A frame that cannot be decoded is replaced by the
            nearest earlier one (failing that, the nearest later one), and `problems` says so.

        Raises:
            SettingError: no times, a time that is not finite, or an unknown `seek`.
            VideoError: nothing can be decoded any more.
        """
        positions = self._positions(times_s, seek)
        pixels = np.empty((len(positions), self.height, self.width, 3), np.uint8)
        shown_s = np.empty(len(positions), np.float64)
        # In the order of the film, whatever the order of the times: no frame is decoded twice.
        unique, places = np.unique(positions, return_inverse=True)
        for number, (time_s, image) in enumerate(self._images(unique)):
            pixels[places == number] = image
            shown_s[places == number] = time_s
        return Frames(pixels, shown_s)

    def iter_frames_at(
        self, times_s: Sequence[float] | NDArray[np.float64]
    ) -> Iterator[tuple[float, NDArray[np.uint8]]]:
        """Like `frames_at`, one frame after the other; ascending times are the fastest.

        Returns:
            An iterator over (seconds at which the frame is first shown, uint8[H, W, 3]).

        Raises:
            SettingError: no times, or a time that is not finite.
            VideoError: nothing can be decoded any more.
        """
        return self._images(self._positions(times_s, "exact"))

    def _positions(self, times_s: Sequence[float] | NDArray[np.float64], seek: str) -> NDArray[np.int64]:
        """Which frame of the table is meant by each time."""
        if seek not in get_args(Seek):
            raise SettingError(f"seek is {seek!r}; choose one of {', '.join(get_args(Seek))}.")
        try:
            wanted_s = np.asarray(times_s, np.float64)
        except (TypeError, ValueError) as error:
            raise SettingError(f"times_s must be a list of seconds, not {times_s!r}.") from error
        if wanted_s.ndim != 1 or not len(wanted_s):
            raise SettingError("times_s must be a list of at least one time in seconds.")
        if not np.isfinite(wanted_s).all():
            odd = wanted_s[~np.isfinite(wanted_s)][0]
            raise SettingError(f"times_s holds {odd}; give finite times in seconds.")

        keys = self._decoder.index.shown_keys()
        if seek == "keyframe" and len(keys):
            keys_s = self.frame_times_s[keys]
            right = np.clip(np.searchsorted(keys_s, wanted_s), 1, max(1, len(keys) - 1))
            right = np.minimum(right, len(keys) - 1)
            left = np.maximum(right - 1, 0)
            is_left = wanted_s - keys_s[left] <= keys_s[right] - wanted_s
            return keys[np.where(is_left, left, right)]
        return np.maximum(np.searchsorted(self.frame_times_s, wanted_s, side="right") - 1, 0)

    def _images(self, positions: Iterable[int]) -> Iterator[tuple[float, NDArray[np.uint8]]]:
        for position in positions:
            picture = self._decoder.find(int(position))
            yield self._decoder.seconds(picture.stamp), self._pixels(picture.frame)

    def _pixels(self, frame: VideoFrame) -> NDArray[np.uint8]:
        """uint8[H, W, 3], upright. A film whose size changes midway keeps its first size."""
        width, height = self._coded_size
        rgb = self._reformatter.reformat(frame, width, height, "rgb24")
        return self._upright.turn(np.asarray(rgb.to_ndarray(), np.uint8))


class _Upright(NamedTuple):
    """How stored pictures become upright: axes swapped first, then mirrored."""

    swaps_axes: bool = False
    mirrors_x: bool = False
    mirrors_y: bool = False

    @classmethod
    def of(cls, frame: VideoFrame) -> Self:
        # PyAV's stubs list motion vectors only.
        side_data: Any = frame.side_data
        matrix = side_data.get("DISPLAYMATRIX")
        if matrix is None:
            return cls()
        # x' = a x + c y, y' = b x + d y, with y pointing down.
        a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5]
        if abs(int(b)) > abs(int(a)):
            return cls(True, bool(c < 0), bool(b < 0))
        return cls(False, bool(a < 0), bool(d < 0))

    @property
    def degrees(self) -> int:
        """Clockwise: 0, 90, 180 or 270."""
        if self.swaps_axes:
            return 270 if self.mirrors_y else 90
        return 180 if self.mirrors_x and self.mirrors_y else 0

    def turn(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """An upright copy of uint8[H, W, 3]."""
        if self.swaps_axes:
            image = image.swapaxes(0, 1)
        if self.mirrors_x:
            image = image[:, ::-1]
        if self.mirrors_y:
            image = image[::-1]
        # A copy, since PyAV may hand out a view of a buffer that belongs to the decoder.
        return image.copy()
