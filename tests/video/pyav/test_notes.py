"""Sentences about a video, with their times."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from videoreasoner.video.pyav.index import FrameIndex
from videoreasoner.video.pyav.notes import Notes

INDEX = FrameIndex(np.arange(100, 200), 200, Fraction(1, 10), np.array([[100, 100]]), counted=False)


def test_each_sentence_comes_once_with_all_its_times() -> None:
    notes = Notes()
    for stamp in (110, 105, 110):
        notes.add("Dark{at}.", stamp)
    notes.add("Short.")
    notes.add("Lost{at}.")
    assert notes.sentences(INDEX) == ["Dark at 0.50 s, 1.00 s.", "Short.", "Lost."]
    for stamp in range(120, 127):
        notes.add("Dark{at}.", stamp)
    assert notes.sentences(INDEX)[0] == "Dark at 0.50 s, 1.00 s, 2.00 s, 2.10 s, 2.20 s and 4 more."


def test_without_a_table_there_are_no_times() -> None:
    notes = Notes()
    notes.add("Dark{at}.")
    assert notes.sentences(None) == ["Dark."]
