from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.video.films import Recipe
from videoreasoner.evidence import Answer, FrameUse, Usage
from videoreasoner.picture import draw_answer
from videoreasoner.retrieval.keyframes import Keyframe
from videoreasoner.spans import Span
from videoreasoner.tasks import LETTERS
from videoreasoner.video.file import VideoFile

DURATION_S = 2.0
WIDTH = 1200


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VideoFile]:
    with VideoFile(Recipe("film.mp4", count=50).make(tmp_path_factory.mktemp("films"))) as opened:
        yield opened


ANSWER = Answer(
    video="film.mp4",
    question="What color is the circle?",
    options=("red", "blue"),
    text="blue",
    choice="B",
    confidence={"A": 0.1, "B": 0.9},
    event=Span(0.5, 1.0),
    key_elements=["circle"],
    keyframes=[Keyframe(0.7, "circle", 0.5, 0.6, 0.8)],
    key_spans=[Span(0.5, 1.0)],
    frames=[FrameUse(t / 10, 5 <= t <= 10) for t in range(20)],
    timing={"decode": 0.1, "total": 0.2},
    usage=Usage(20, 10, 2, 100, 20),
    mode="focus",
    model="tiny",
    duration_s=DURATION_S,
    settings={},
)
CASES: dict[str, dict[str, Any]] = {
    "as it is": {},
    "no options": {"options": (), "choice": None, "confidence": None},
    "26 options": {
        "options": tuple(f"option number {i} " * 5 for i in range(26)),
        "confidence": dict.fromkeys(LETTERS, 1 / 26),
        "choice": "Z",
    },
    "a sure answer": {"confidence": {"A": 0.0, "B": 1.0}},
    "no event": {"event": None, "key_spans": [], "keyframes": [], "key_elements": []},
    "event at the end": {"event": Span(DURATION_S - 1e-9, DURATION_S)},
    "200 keyframes": {"keyframes": [Keyframe(i / 100, f"element {i}", 0.1, 0, 1) for i in range(200)]},
    "very long question": {"question": "why " * 5000},
    "one very long word": {"question": "x" * 20_000, "text": "y" * 20_000},
    "a very long element": {"keyframes": [Keyframe(0.7, "circle " * 3000, 0.5, 0.6, 0.8)]},
    "blank and odd characters": {"question": "\n\t Où \u2028 \ud800 \u4f60 \0", "options": ("a\nb\nc", "\U0001f600")},
    "no frames": {"frames": []},
    "one frame": {"frames": [FrameUse(0.0, False)]},
    "one frame twice": {"frames": [FrameUse(0.0, False), FrameUse(0.0, False)]},
    "only sparse frames": {"frames": [FrameUse(t / 100, False) for t in range(200)]},
    "many notes": {"notes": [f"note {i} " * 30 for i in range(60)]},
}


def _is_drawn(image: Image.Image) -> bool:
    return image.mode == "RGB" and image.width == WIDTH and image.height > 100 and np.asarray(image).std() > 1


@pytest.mark.parametrize("name", CASES)
def test_any_answer_can_be_drawn(name: str, film: VideoFile) -> None:
    assert _is_drawn(draw_answer(replace(ANSWER, **CASES[name]), film))


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe("wide.mp4", count=12, size=(400, 2)),
        Recipe("high.mp4", count=12, size=(2, 400)),
        Recipe("tiny.mp4", count=12, size=(2, 2)),
        Recipe("pixel.mkv", codec="ffv1", count=12, size=(1, 1), pixel_format="yuv444p"),
        Recipe("single.mp4", count=1),
    ],
    ids=lambda recipe: recipe.file_name,
)
def test_any_film_can_be_drawn(recipe: Recipe, tmp_path: Path) -> None:
    with VideoFile(recipe.make(tmp_path)) as film:
        assert _is_drawn(draw_answer(replace(ANSWER, duration_s=film.duration_s), film))


@pytest.mark.parametrize("name", ["as it is", "26 options", "many notes", "one very long word"])
def test_the_picture_is_as_high_as_it_needs(name: str, film: VideoFile) -> None:
    """The last line stands whole above a clear margin: nothing was cut off."""
    image = np.asarray(draw_answer(replace(ANSWER, **CASES[name]), film))
    margin, above = image[-8:], image[-60:-8]
    assert (margin == 255).all()
    assert (above < 255).any()


def test_a_further_note_makes_it_higher(film: VideoFile) -> None:
    heights = [draw_answer(replace(ANSWER, notes=["a note"] * n), film).height for n in (0, 1, 40, 120, 121)]
    assert heights == sorted(set(heights))


def test_the_same_answer_gives_the_same_picture(film: VideoFile) -> None:
    assert draw_answer(ANSWER, film).tobytes() == draw_answer(ANSWER, film).tobytes()
