"""A video: what it is, and its frames at any times."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self

import numpy as np
from av.error import FFmpegError
from numpy.typing import NDArray

from videoreasoner.errors import VideoError
from videoreasoner.video.frames import Frames
from videoreasoner.video.pyav.decoder import Decoder
from videoreasoner.video.pyav.pixels import Converter, Shape
from videoreasoner.video.pyav.plan import plan_runs
from videoreasoner.video.pyav.runs import RunPool
from videoreasoner.video.pyav.threads import default_threads
from videoreasoner.video.reader import Seek, check_seek, check_side, check_times, nearest


class VideoFile:
    """A video on disk or behind a URL; its frames are decoded when asked for.

    Time 0 is when the first frame is shown, and a frame is on screen until the next one is.
    Frames come upright, and equal to those of a decode of the whole video straight through.
    One thread at a time may use it.

    Args:
        source: a path, or a URL (http://, https://, file://). A file on disk never makes this
            class reach for the network, not even if the file says so.
        threads: how many threads may decode; None is one for each core of this process, at most 8, and one
            alone in a worker process such as a DataLoader's.

    Raises:
        VideoError: the source cannot be opened, or holds no frame that can be decoded.
    """

    def __init__(self, source: str | os.PathLike[str], *, threads: int | None = None) -> None:
        self._threads = default_threads() if threads is None else max(1, threads)
        name = os.fsdecode(source)
        self._decoder = Decoder(name, self._threads)
        self._pool = RunPool(name, self._threads)
        self._converter = Converter()
        first = self._decoder.first_frame()
        self._shape = Shape.of(first)
        try:
            self._converter.image(first, self._shape)
        except FFmpegError as error:
            raise VideoError(
                f"{self._decoder.name}: its pixel format {first.format.name} cannot be turned "
                "into RGB; convert the video to yuv420p."
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
        self._pool.close()
        self._decoder.close()

    @property
    def name(self) -> str:
        """The path or URL, as it was given."""
        return self._decoder.name

    @property
    def width(self) -> int:
        """Pixels from left to right, after rotation."""
        return self._shape.upright_size[1]

    @property
    def height(self) -> int:
        """Pixels from top to bottom, after rotation."""
        return self._shape.upright_size[0]

    def size(self, short_side: int | None = None) -> tuple[int, int]:
        """Height and width of the frames that are given for this `short_side`.

        Raises:
            SettingError: no picture is that small.
        """
        return self._shape.scaled(check_side(short_side)).upright_size

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
        return self._decoder.index.seconds(self._decoder.index.stamps)

    @property
    def key_times_s(self) -> NDArray[np.float64]:
        """float64[K]: the times of the key frames among them, ascending; they cost a fraction of what others do.

        Empty for a file that does not tell where its key frames are shown.
        """
        return self.frame_times_s[self._decoder.index.shown_keys()]

    @property
    def duration_s(self) -> float:
        """Seconds from the first shown frame to the end of the last one, > 0."""
        index = self._decoder.index
        return float(index.seconds(np.array([index.end]))[0])

    @property
    def fps(self) -> float:
        """Frames per second, averaged over the whole video."""
        return len(self.frame_times_s) / self.duration_s

    @property
    def problems(self) -> list[str]:
        """What could not be read or decoded so far, in sentences; empty for a sound file."""
        return self._decoder.problems()

    def frames_at(
        self, times_s: Sequence[float] | NDArray[np.float64], seek: str = "exact", short_side: int | None = None
    ) -> Frames:
        """The frames that are on screen at some times.

        Args:
            times_s: seconds, in any order, repeated at will. A time before the first frame
                means the first frame, a time after the end the last one.
            seek: "exact", or "keyframe" for the key frame nearest to each time: faster, and
                off by up to half the distance between key frames. A file that does not tell
                where its key frames are shown gives exact frames for both.
            short_side: scale frames down, shape kept, until their shorter side is no longer than this; never
                up. None is the size of the video, and what a model is to see: its own resize is part of its
                definition. Scaling while converting is for thumbnails and for searching.

        Returns:
            One frame for each time, in the order of the times, with the times at which these
            frames are truly first shown. A frame that cannot be decoded is replaced by the
            nearest earlier one (failing that, the nearest later one), and `problems` says so.

        Raises:
            SettingError: no times, a time that is not finite, an unknown `seek`, or a `short_side` below 1.
            VideoError: nothing can be decoded any more.
        """
        wanted_s = check_times(times_s)
        shape = self._shape.scaled(check_side(short_side))
        positions = self._positions(wanted_s, check_seek(seek))
        pixels = np.empty((len(positions), *shape.upright_size, 3), np.uint8)
        shown_s = np.empty(len(positions), np.float64)
        # In the order of the video, whatever the order of the times: no frame is decoded twice.
        order = np.argsort(positions, kind="stable")
        for place, (time_s, image) in zip(order, self._images(positions[order], shape), strict=True):
            pixels[place] = image
            shown_s[place] = time_s
        return Frames(pixels, shown_s)

    def iter_frames_at(
        self, times_s: Sequence[float] | NDArray[np.float64], seek: str = "exact", short_side: int | None = None
    ) -> Iterator[tuple[float, NDArray[np.uint8]]]:
        """Like `frames_at`, one frame after the other; ascending times are the fastest.

        Returns:
            An iterator over (seconds at which the frame is first shown, uint8[H, W, 3]).

        Raises:
            SettingError: as `frames_at`.
            VideoError: nothing can be decoded any more.
        """
        wanted_s = check_times(times_s)
        shape = self._shape.scaled(check_side(short_side))
        return self._images(self._positions(wanted_s, check_seek(seek)), shape)

    def _positions(self, wanted_s: NDArray[np.float64], seek: Seek) -> NDArray[np.int64]:
        """Which frame of the table is meant by each time."""
        keys = self._decoder.index.shown_keys()
        if seek == "keyframe" and len(keys):
            return keys[nearest(self.frame_times_s[keys], wanted_s)]
        return np.maximum(np.searchsorted(self.frame_times_s, wanted_s, side="right") - 1, 0)

    def _images(self, positions: NDArray[np.int64], shape: Shape) -> Iterator[tuple[float, NDArray[np.uint8]]]:
        self._decoder.check_open()
        index = self._decoder.index
        for run, images in self._pool.decode(plan_runs(positions.tolist(), index, self._threads), index, shape):
            times_s = index.seconds(index.stamps[list(run.positions)]).tolist()
            done = 0
            for image in images:
                yield times_s[done], image
                self._decoder.check_open()
                done += 1
            for position in run.positions[done:]:
                picture = self._decoder.find(position)
                yield self._decoder.seconds(picture.stamp), self._converter.image(picture.frame, shape)
