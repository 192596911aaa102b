"""A reader who knows how often training videos show each detail, and sees no video, can only guess held-out details."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable

import numpy as np
import pytest

from videoreasoner.synthetic.questions import Question, make_question
from videoreasoner.synthetic.world import DetailKind, Subset, World, WorldSettings, random_world

WORLDS = {"train": 8000, "held_out": 4000}
# What a reader of a question may know about its event, without the video.
KNOWN: dict[str, Callable[[Question], Hashable]] = {
    "colour and shape": lambda question: (question.event.color, question.event.shape),
    "colour": lambda question: question.event.color,
    "shape": lambda question: question.event.shape,
    "options": lambda question: frozenset(question.options),
    "nothing": lambda question: None,
}


def questions(subset: Subset, kind: DetailKind) -> list[Question]:
    """One question about a detail of each world."""
    rng = np.random.default_rng([1, len(subset)])
    chosen = WorldSettings(detail=kind)
    asked = []
    for _ in range(WORLDS[subset]):
        world: World = random_world(rng, chosen, subset)
        asked.append(make_question(rng, world, world.events[rng.integers(len(world.events))], "detail"))
    return asked


@pytest.mark.parametrize("kind", ["color", "digit"])
def test_priors_of_training_videos_give_chance_on_held_out_details(kind: DetailKind) -> None:
    trained, asked = questions("train", kind), questions("held_out", kind)
    chance, deviation = 0.25, (0.25 * 0.75 / len(asked)) ** 0.5
    for name, known in KNOWN.items():
        seen = Counter((known(question), question.event.detail) for question in trained)
        totals = Counter(known(question) for question in trained)
        # A pair that no training video shows has no counts; colour and shape then speak each for themselves.
        by_color = Counter((question.event.color, question.event.detail) for question in trained)
        by_shape = Counter((question.event.shape, question.event.detail) for question in trained)
        right = {"likeliest": 0.0, "least likely": 0.0}
        for question in asked:
            if totals[known(question)]:
                belief = [seen[known(question), option] for option in question.options]
            else:
                belief = [
                    by_color[question.event.color, option] * by_shape[question.event.shape, option]
                    for option in question.options
                ]
            right["likeliest"] += question.options[int(np.argmax(belief))] == question.answer
            right["least likely"] += question.options[int(np.argmin(belief))] == question.answer
        for guess, count in right.items():
            # Four standard deviations: 2.7 points.
            assert abs(count / len(asked) - chance) < 4 * deviation, (name, guess, count / len(asked))
