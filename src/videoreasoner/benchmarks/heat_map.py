"""A grid of shares as a heat map, drawn with Pillow, so that no optional library is needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from videoreasoner.utils.files import replacing

_CELL_W, _CELL_H, _GAP = 74, 44, 3
_LEFT, _TOP, _BOTTOM, _RIGHT = 78, 74, 58, 26
_BACKGROUND, _INK, _FAINT, _EMPTY = (255, 255, 255), (30, 34, 40), (110, 116, 124), (240, 241, 243)
# From poor to good, and from light to dark, so that it can also be read in grey.
_SCALE = ((247, 244, 236), (190, 222, 205), (84, 166, 160), (24, 96, 122), (16, 50, 84))


@dataclass(frozen=True)
class Panel:
    """One grid of the picture.

    Attributes:
        title: above it.
        values: lines of shares in [0, 1]; None leaves a cell empty.
    """

    title: str
    values: Sequence[Sequence[float | None]]


def write_heat_map(
    path: Path, title: str, panels: Sequence[Panel], columns: Sequence[str], lines: Sequence[str], axes: tuple[str, str]
) -> None:
    """Write panels side by side as a PNG.

    Args:
        path: the file, replaced when it is there.
        title: above all panels.
        panels: each of `len(lines)` by `len(columns)` values.
        columns, lines: names of the values along the axes.
        axes: what the columns and the lines are.
    """
    panel_w = _LEFT + len(columns) * _CELL_W + _RIGHT
    image = Image.new("RGB", (len(panels) * panel_w, _TOP + len(lines) * _CELL_H + _BOTTOM), _BACKGROUND)
    draw = ImageDraw.Draw(image)
    draw.text((16, 12), title, _INK, font=_font(17))
    for number, panel in enumerate(panels):
        left = number * panel_w + _LEFT
        draw.text((left, 44), panel.title, _INK, font=_font(15))
        _draw_cells(draw, panel, left)
        for column, name in enumerate(columns):
            middle = left + (column + 0.5) * _CELL_W
            draw.text((middle, _TOP + len(lines) * _CELL_H + 6), name, _FAINT, font=_font(13), anchor="mt")
        for line, name in enumerate(lines):
            draw.text((left - 8, _TOP + (line + 0.5) * _CELL_H), name, _FAINT, font=_font(13), anchor="rm")
        foot = _TOP + len(lines) * _CELL_H + 28
        draw.text((left + len(columns) * _CELL_W / 2, foot), axes[0], _INK, font=_font(13), anchor="mt")
        # Next to the title, because Pillow draws no vertical text.
        draw.text((left - 8, 58), axes[1], _INK, font=_font(13), anchor="rm")
    with replacing(path) as partial:
        image.save(partial, "PNG")


def _draw_cells(draw: ImageDraw.ImageDraw, panel: Panel, left: int) -> None:
    for line, values in enumerate(panel.values):
        for column, value in enumerate(values):
            x, y = left + column * _CELL_W, _TOP + line * _CELL_H
            box = (x, y, x + _CELL_W - _GAP, y + _CELL_H - _GAP)
            draw.rectangle(box, _EMPTY if value is None else colour(value))
            if value is not None:
                ink = _INK if value < 0.55 else _BACKGROUND
                middle = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
                draw.text(middle, f"{100 * value:.0f}", ink, font=_font(16), anchor="mm")


def colour(share: float) -> tuple[int, int, int]:
    """The color of a share, which is limited to [0, 1]: darker is better."""
    at = min(max(share, 0.0), 1.0) * (len(_SCALE) - 1)
    first = min(int(at), len(_SCALE) - 2)
    low, high = _SCALE[first], _SCALE[first + 1]
    red, green, blue = (round(a + (b - a) * (at - first)) for a, b in zip(low, high, strict=True))
    return red, green, blue


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
