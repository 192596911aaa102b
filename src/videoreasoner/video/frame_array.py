"""Frames in memory as a video."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from videoreasoner.errors import VideoError
from videoreasoner.video.frames import Frames
from videoreasoner.video.reader import ShortSide, Times, check_seek, check_sides, check_times, collect_frames


class FrameArray:
    """Frames that are in memory, used as a video: a `VideoReader`.

    Every frame is a key frame. Frames are given out as views of the array, so changing one changes the video.

    Args:
        frames: uint8[T, H, W, 3], RGB, upright, T >= 1.
        fps: frames per second, where the distances are equal; then frame i is shown at i / fps seconds.
        times_s: float[T], seconds, increasing, where they are not equal. The first frame is shown at time 0, so that
            `times_s[0]` is taken off all of them. The last frame is shown for as long as the one before it. A single
            frame has no such length and needs `fps`.
        name: what messages and answers call the video.

    Raises:
        VideoError: the frames or their times cannot be used.
    """

    rotation = 0

    def __init__(
        self,
        frames: NDArray[np.uint8],
        *,
        fps: float | None = None,
        times_s: Times | None = None,
        name: str = "frames in memory",
    ) -> None:
        self.name = name
        if not isinstance(frames, np.ndarray) or frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
            found = f"{frames.dtype}{list(frames.shape)}" if isinstance(frames, np.ndarray) else type(frames).__name__
            raise VideoError(f"{name}: frames must be a numpy array uint8[T, H, W, 3] in RGB, not {found}")
        if 0 in frames.shape:
            raise VideoError(f"{name}: frames without pixels: {list(frames.shape)}")
        if (fps is None) == (times_s is None):
            raise VideoError(f"{name}: give either fps or times_s, so that every frame has a time")
        self._frames = frames
        if times_s is None:
            assert fps is not None
            if not (np.isfinite(fps) and fps > 0):
                raise VideoError(f"{name}: fps must be a positive number, not {fps}")
            self.frame_times_s = np.arange(len(frames)) / float(fps)
            last_s = 1 / float(fps)
        else:
            shown_s = check_times(times_s)
            if len(shown_s) != len(frames) or len(frames) < 2 or not (np.diff(shown_s) > 0).all():
                raise VideoError(
                    f"{name}: {len(frames)} frames need as many increasing times, at least two, not {len(shown_s)}"
                )
            self.frame_times_s = shown_s - shown_s[0]
            last_s = float(shown_s[-1] - shown_s[-2])
        self.duration_s = float(self.frame_times_s[-1]) + last_s

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Nothing is to be closed."""

    @property
    def width(self) -> int:
        return int(self._frames.shape[2])

    @property
    def height(self) -> int:
        return int(self._frames.shape[1])

    @property
    def key_times_s(self) -> NDArray[np.float64]:
        return self.frame_times_s

    @property
    def fps(self) -> float:
        return len(self._frames) / self.duration_s

    @property
    def problems(self) -> list[str]:
        return []

    def frames_at(self, times_s: Times, seek: str = "exact", short_side: int | None = None) -> Frames:
        """See `VideoReader`."""
        return collect_frames(self, times_s, seek, short_side)

    def iter_frames_at(
        self, times_s: Times, seek: str = "exact", short_side: ShortSide = None
    ) -> Iterator[tuple[float, NDArray[np.uint8]]]:
        """See `VideoReader`. Both ways to seek give the frame that is on screen, or the nearest in time."""
        wanted_s = check_times(times_s)
        sides = check_sides(short_side, len(wanted_s))
        if check_seek(seek) == "exact":
            found = np.searchsorted(self.frame_times_s, wanted_s, side="right") - 1
        else:
            middles_s = (self.frame_times_s[1:] + self.frame_times_s[:-1]) / 2
            found = np.searchsorted(middles_s, wanted_s, side="left")
        return self._images(np.clip(found, 0, len(self._frames) - 1), sides)

    def _images(self, found: NDArray[np.intp], sides: list[int | None]) -> Iterator[tuple[float, NDArray[np.uint8]]]:
        for number, side in zip(found, sides, strict=True):
            image = self._frames[number]
            yield float(self.frame_times_s[number]), image if side is None else _scaled(image, side)


def _scaled(image: NDArray[np.uint8], short_side: int) -> NDArray[np.uint8]:
    """uint8[H, W, 3] with its shorter side at most `short_side` pixels; never larger."""
    shorter = min(image.shape[:2])
    if shorter <= short_side:
        return image
    height, width = (max(1, round(side * short_side / shorter)) for side in image.shape[:2])
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BOX))
