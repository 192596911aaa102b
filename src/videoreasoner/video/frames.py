"""Frames: pixels together with the times they were on screen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Frames:
    """A run of frames of one video, in the order of their times.

    Attributes:
        pixels: uint8[T, H, W, 3], RGB, upright (rotation applied).
        times_s: float64[T], seconds since the first frame of the video.
    """

    pixels: NDArray[np.uint8]
    times_s: NDArray[np.float64]

    def __post_init__(self) -> None:
        if self.pixels.ndim != 4 or self.pixels.shape[-1] != 3 or self.pixels.dtype != np.uint8:
            raise ValueError(f"pixels must be uint8[T, H, W, 3], not {self.pixels.dtype}{list(self.pixels.shape)}")
        if self.times_s.shape != (len(self.pixels),):
            raise ValueError(f"{len(self.pixels)} frames need as many times, not {self.times_s.shape}")

    def __len__(self) -> int:
        return len(self.pixels)

    def __iter__(self) -> Iterator[tuple[float, NDArray[np.uint8]]]:
        for time_s, image in zip(self.times_s, self.pixels, strict=True):
            yield float(time_s), image
