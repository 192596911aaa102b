from __future__ import annotations

from PIL import Image, ImageColor

from experiments.reproduction.plots import _COLOURS, is_measured
from tests.paths import ROOT

COMMITTED = ROOT / "docs" / "reproduction"


def test_committed_files_are_small() -> None:
    assert sum(path.stat().st_size for path in COMMITTED.rglob("*.json")) < 1_000_000
    for name in ("scores.png", "curves.png"):
        assert (COMMITTED / name).stat().st_size <= 150_000
        assert Image.open(COMMITTED / name).width >= 900


def test_every_line_keeps_its_colour() -> None:
    """The plots are reduced to few colours, which must not make two variants look alike."""
    colours = Image.open(COMMITTED / "curves.png").convert("RGB").getcolors(2**24)
    assert colours is not None
    assert {ImageColor.getrgb(colour) for colour in _COLOURS} <= {colour for _, colour in colours}


def test_a_text_chain_has_no_scored_answers() -> None:
    assert [is_measured(mode, "answer") for mode in ("direct", "focus", "think")] == [True, True, False]  # type: ignore[arg-type]
    assert is_measured("think", "answer_written")
