"""A video that is decoded with PyAV in this process: its facts, and its frames at any times."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice
from types import TracebackType
from typing import Self

import numpy as np
from av.error import FFmpegError
from numpy.typing import NDArray

from videoreasoner.errors import VideoError
from videoreasoner.video.frames import Frames
from videoreasoner.video.pyav.careful import CarefulDecoder
from videoreasoner.video.pyav.pixels import Converter, Shape
from videoreasoner.video.pyav.planned import PlannedDecoder, ShapedRun, plan_runs
from videoreasoner.video.pyav.source import Source
from videoreasoner.video.reader import (
    Seek,
    ShortSide,
    Times,
    check_download_limit,
    check_seek,
    check_sides,
    check_times,
    collect_frames,
    decoding_threads,
)


class VideoFile:
    """A video on disk or behind a URL; its frames are decoded when asked for.

    Time 0 is when the first frame is shown, and a frame is on screen until the next frame is. Frames are upright, and
    equal to those of a decode of the whole video from its beginning to its end. Only one thread at a time may use it.

    Args:
        source: a path, or a URL (http://, https://, file://). A file on disk cannot make this class use the network.
        threads: how many threads may decode; see `videoreasoner.video.reader.decoding_threads` for None.
        download_limit_mb: most megabytes to fetch from a server that gives a video as a whole only; see
            `videoreasoner.video.reader.check_download_limit` for None.

    Raises:
        VideoError: the source cannot be opened, or holds no frame that can be decoded.
    """

    def __init__(
        self,
        source: str | os.PathLike[str],
        *,
        threads: int | None = None,
        download_limit_mb: float | None = None,
    ) -> None:
        self._threads = decoding_threads(threads)
        name = os.fsdecode(source)
        self._source = Source(name, check_download_limit(download_limit_mb))
        try:
            self._begin(name)
        except BaseException:
            self._source.close()
            raise

    def _begin(self, name: str) -> None:
        self._careful = CarefulDecoder(self._source, self._threads)
        self._planned = PlannedDecoder(self._source, self._threads)
        self._converter = Converter()
        first = self._careful.first_frame()
        self._shape = Shape.of(first)
        try:
            self._converter.image(first, self._shape)
        except FFmpegError as error:
            raise VideoError(
                f"{name}: its pixel format {first.format.name} cannot be turned into RGB; convert the video to yuv420p."
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
        """Close the file. Decoding afterwards is a ValueError."""
        self._planned.close()
        self._careful.close()
        self._source.close()

    @property
    def name(self) -> str:
        """The path or URL, as it was given."""
        return self._careful.name

    @property
    def width(self) -> int:
        """Pixels from left to right, after rotation."""
        return self._shape.upright_size[1]

    @property
    def height(self) -> int:
        """Pixels from top to bottom, after rotation."""
        return self._shape.upright_size[0]

    @property
    def rotation(self) -> int:
        """Degrees, clockwise, that stored pictures are turned by: 0, 90, 180 or 270."""
        return self._shape.upright.degrees

    @property
    def frame_times_s(self) -> NDArray[np.float64]:
        """float64[N]: when each frame is shown, in seconds, ascending from 0.0.

        The first use reads through the whole file once, without decoding.

        Raises:
            VideoError: the file lists no frame.
        """
        return self._careful.index.seconds(self._careful.index.stamps)

    @property
    def key_times_s(self) -> NDArray[np.float64]:
        """float64[K]: when key frames are shown, in seconds, ascending; empty for a file that does not say.

        A key frame costs a fraction of what another frame costs.
        """
        return self.frame_times_s[self._careful.index.shown_keys()]

    @property
    def duration_s(self) -> float:
        """Seconds from the first shown frame to the end of the last one, > 0."""
        index = self._careful.index
        return float(index.seconds(np.array([index.end]))[0])

    @property
    def fps(self) -> float:
        """Frames per second, averaged over the whole video."""
        return len(self.frame_times_s) / self.duration_s

    @property
    def problems(self) -> list[str]:
        """What could not be read or decoded so far, in sentences; empty for a sound file."""
        return self._careful.problems()

    def frames_at(self, times_s: Times, seek: str = "exact", short_side: int | None = None) -> Frames:
        """The frames that are on screen at some times.

        Args:
            times_s: seconds, in any order, with repetitions if wanted. A time before the first frame means the first
                frame, a time after the end the last one.
            seek: "exact", or "keyframe" for the key frame nearest to each time, which is faster and off by up to half
                the distance between key frames. A file that does not say where its key frames are shown gives exact
                frames for both.
            short_side: scale frames down, with their shape kept, until their shorter side has at most this many pixels.
                Frames are never scaled up. None is the size of the video, and what a model gets: its own resize is part
                of its definition. Scaled frames are for thumbnails and for searching.

        Returns:
            One frame for each time, in the order of the times, with the times at which these frames are first shown. A
            frame that cannot be decoded is replaced by the nearest earlier one (without one, by the nearest later one),
            and `problems` says so.

        Raises:
            SettingError: no times, a time that is not finite, an unknown `seek`, or a `short_side` below 1.
            VideoError: nothing can be decoded any more.
        """
        return collect_frames(self, times_s, seek, short_side)

    def iter_frames_at(
        self, times_s: Times, seek: str = "exact", short_side: ShortSide = None
    ) -> Iterator[tuple[float, NDArray[np.uint8]]]:
        """Like `frames_at`, one frame after the other. Ascending times are the fastest.

        `short_side` may also be a list with one value for each time. A time that is given twice, with two short sides,
        is decoded once and gives two pictures.

        Returns:
            An iterator over (seconds at which the frame is first shown, uint8[H, W, 3]).

        Raises:
            SettingError: as `frames_at`.
            VideoError: nothing can be decoded any more.
        """
        wanted_s = check_times(times_s)
        shapes = [self._shape.scaled(side) for side in check_sides(short_side, len(wanted_s))]
        return self._images(self._positions(wanted_s, check_seek(seek)), shapes)

    def _positions(self, wanted_s: NDArray[np.float64], seek: Seek) -> NDArray[np.int64]:
        """int64[T]: the position in the frame table of the frame that each time means."""
        keys = self._careful.index.shown_keys()
        if seek == "keyframe" and len(keys):
            return keys[_nearest(self.frame_times_s[keys], wanted_s)]
        return np.maximum(np.searchsorted(self.frame_times_s, wanted_s, side="right") - 1, 0)

    def _images(self, positions: NDArray[np.int64], shapes: list[Shape]) -> Iterator[tuple[float, NDArray[np.uint8]]]:
        self._careful.check_open()
        index = self._careful.index
        runs = plan_runs(positions.tolist(), index, self._threads)
        # The runs cut the wanted frames in their order.
        waiting = iter(shapes)
        shaped = [ShapedRun(*run, tuple(islice(waiting, len(run.positions)))) for run in runs]
        self._source.check_unchanged()
        for run, images in self._planned.decode(shaped, index):
            times_s = index.seconds(index.stamps[list(run.positions)]).tolist()
            done = 0
            for image in images:
                yield times_s[done], image
                self._careful.check_open()
                done += 1
            if self._planned.saw_damage:
                self._careful.decode_alone()
            for position, shape in zip(run.positions[done:], run.shapes[done:], strict=True):
                picture = self._careful.find(position)
                yield self._careful.seconds(picture.stamp), self._converter.image(picture.frame, shape)
            self._source.check_unchanged()


def _nearest(sorted_s: NDArray[np.float64], wanted_s: NDArray[np.float64]) -> NDArray[np.int64]:
    """int64[T]: which of the ascending times (at least one) is nearest to each wanted one; of two, the earlier."""
    right = np.minimum(np.searchsorted(sorted_s, wanted_s), len(sorted_s) - 1)
    left = np.maximum(right - 1, 0)
    return np.where(wanted_s - sorted_s[left] <= sorted_s[right] - wanted_s, left, right)
