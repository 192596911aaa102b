"""Decoded frames -> upright RGB pixels, scaled down if wanted."""

from __future__ import annotations

from fractions import Fraction
from typing import Any, NamedTuple, Self

import numpy as np
from av.filter import Graph
from av.sidedata.sidedata import Type
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

# FFmpeg numbers the kinds of side data of a frame from 0 on; there were 32 in its version 8.
_SIDE_DATA_NUMBERS = range(64)


class Upright(NamedTuple):
    """How stored pictures become upright: axes swapped first, then mirrored.

    The display matrix of a frame says so. It comes from the container or, for JPEG, PNG and WebP pictures, from the
    orientation in their EXIF data.
    """

    swaps_axes: bool = False
    mirrors_x: bool = False
    mirrors_y: bool = False

    @classmethod
    def of(cls, frame: VideoFrame) -> Self:
        matrix = _side_data(frame).get("DISPLAYMATRIX")
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
        """uint8[H, W, 3], upright: the same array if it is upright already, otherwise a copy."""
        if self == Upright():
            return image
        if self.swaps_axes:
            image = image.swapaxes(0, 1)
        if self.mirrors_x:
            image = image[:, ::-1]
        if self.mirrors_y:
            image = image[::-1]
        return image.copy()


def _side_data(frame: VideoFrame) -> Any:
    """The side data of a frame, without the kinds that PyAV does not know."""
    try:
        # PyAV's stubs list motion vectors only.
        return frame.side_data
    except ValueError:
        # One unknown kind, such as EXIF data in PyAV 18, makes all side data unreadable. A filter can remove it.
        known: set[Any] = {kind.value for kind in Type}
        graph = Graph()
        buffer = graph.add_buffer(
            width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base or Fraction(1)
        )
        unknown = [graph.add("sidedata", f"delete:{n}") for n in _SIDE_DATA_NUMBERS if n not in known]
        graph.link_nodes(buffer, *unknown, graph.add("buffersink")).configure()
        graph.vpush(frame)
        return graph.vpull().side_data


class Shape(NamedTuple):
    """The pictures of a video: width and height in pixels before rotation, and how they become upright."""

    width: int
    height: int
    upright: Upright
    is_scaled: bool = False

    @classmethod
    def of(cls, frame: VideoFrame) -> Self:
        return cls(frame.width, frame.height, Upright.of(frame))

    def scaled(self, short_side: int | None) -> Shape:
        """The same pictures with their shorter side at most `short_side` pixels; never larger."""
        shorter = min(self.width, self.height)
        if short_side is None or shorter <= short_side:
            return self
        scale = short_side / shorter
        return self._replace(
            width=max(1, round(self.width * scale)), height=max(1, round(self.height * scale)), is_scaled=True
        )

    @property
    def bytes(self) -> int:
        """How many bytes a picture has."""
        return 3 * self.width * self.height

    @property
    def upright_size(self) -> tuple[int, int]:
        """Height and width after rotation."""
        return (self.width, self.height) if self.upright.swaps_axes else (self.height, self.width)


class Converter:
    """Frames -> uint8[H, W, 3]. One thread at a time may use it; it keeps FFmpeg's scaler between frames."""

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()

    def image(self, frame: VideoFrame, shape: Shape) -> NDArray[np.uint8]:
        """RGB of a given shape, upright: a video whose size changes midway keeps its first size.

        Raises:
            FFmpegError: this pixel format cannot be converted.
        """
        # At the stored size, FFmpeg's default is kept: what a model sees must not depend on the choice of a scaler.
        interpolation = "AREA" if shape.is_scaled else None
        rgb = self._reformatter.reformat(frame, shape.width, shape.height, "rgb24", interpolation=interpolation)
        image = np.asarray(rgb.to_ndarray(), np.uint8)
        # A video that is stored as RGB is not converted: its buffer belongs to the decoder, which still reads it.
        return shape.upright.turn(image.copy() if rgb is frame else image)
