from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from videoreasoner.benchmarks.heat_map import Panel, colour, write_heat_map


def luminance(share: float) -> float:
    red, green, blue = colour(share)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@given(st.floats(0, 1), st.floats(0, 1))
def test_darker_is_better(a: float, b: float) -> None:
    low, high = sorted((a, b))
    # Whole numbers of colour leave a rounding step.
    assert luminance(high) <= luminance(low) + 1.0
    assert luminance(0.0) - luminance(1.0) > 150


def test_every_cell_shows_the_colour_of_its_share(tmp_path: Path) -> None:
    values = [[0.0, 0.5, None], [1.0, None, 0.25]]
    path = tmp_path / "map.png"
    write_heat_map(path, "title", [Panel("one", values), Panel("two", values)], "abc", "de", ("across", "down"))
    with Image.open(path) as image:
        shown = {pixel for _, pixel in image.getcolors(2**24) or []}
        assert {colour(v) for line in values for v in line if v is not None} <= shown
        assert colour(0.75) not in shown
        half = image.width // 2
        # The panels hold the same cells; only their titles and the title above differ.
        below = (0, 74, half, image.height)
        assert image.crop(below).tobytes() == image.crop((half, 74, image.width, image.height)).tobytes()


def test_a_map_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OSError):  # noqa: PT011
        write_heat_map(tmp_path / "no" / "map.png", "t", [Panel("one", [[1.0]])], "a", "b", ("x", "y"))
    assert not list(tmp_path.iterdir())
