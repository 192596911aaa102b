"""Questions about a world, in natural English, with the truth for every field of a row.

There are two splits: `plain` asks about what is visible during a whole event, `detail` about what is visible only
briefly during it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from videoreasoner.synthetic.world import COLORS, DIGITS, SHAPES, Event, World

Split = Literal["plain", "detail"]

_WORDINGS = {
    "color": (
        "What color is the {thing}?",
        "Which color does the {thing} have most of the time?",
        "The {thing} in this video: what color is it?",
    ),
    "shape": (
        "What shape is the {thing}?",
        "Which shape does the {thing} have?",
        "The {thing} in this video: what shape is it?",
    ),
    "flash": (
        "What color does the {thing} flash?",
        "Which color does the {thing} briefly turn?",
        "The {thing} changes its color for a moment: to which color?",
    ),
    "digit": (
        "Which digit flashes on the {thing}?",
        "What digit appears briefly on the {thing}?",
        "The {thing} shows a digit for a moment: which one?",
    ),
}


@dataclass(frozen=True)
class Question:
    """One question with its truth.

    Attributes:
        kind: what is asked for: "color", "shape", "flash" or "digit".
        text: the question without its options.
        options: the texts to choose from.
        answer: the text of the right option.
        event: the event that the question is about.
        key_elements: what there is to look for.
    """

    kind: str
    text: str
    options: tuple[str, ...]
    answer: str
    event: Event
    key_elements: tuple[str, ...]

    @property
    def visible_for(self) -> tuple[float, float]:
        """When the answer can be seen: start and end, as shares of the video."""
        if self.kind in ("flash", "digit"):
            return self.event.detail_start, self.event.detail_end
        return self.event.start, self.event.end


def make_question(rng: np.random.Generator, world: World, event: Event, split: Split, choices: int = 4) -> Question:
    """A random question of the split about one event of the world, with shuffled options."""
    object_name = f"{event.color} {event.shape}"
    if split == "plain":
        kind = str(rng.choice(["color", "shape"]))
        thing = event.shape if kind == "color" else f"{event.color} object"
        answer = event.color if kind == "color" else event.shape
        pool: tuple[str, ...] = tuple(COLORS) if kind == "color" else SHAPES
        elements: tuple[str, ...] = (object_name,)
    else:
        kind = "flash" if world.detail_kind == "color" else "digit"
        thing = str(rng.choice([event.shape, f"{event.color} object", object_name]))
        answer = event.detail
        # A flash is a change, so the shape's own colour is not among the wrong options.
        pool = tuple(c for c in COLORS if c != event.color) if world.detail_kind == "color" else DIGITS
        mark = "black dot" if world.detail_kind == "color" else "digit"
        elements = (object_name, f"{event.shape} with a {mark}")
    others = rng.permutation([name for name in pool if name != answer])[: choices - 1]
    options = tuple(str(o) for o in rng.permutation([answer, *others]))
    text = str(rng.choice(_WORDINGS[kind])).format(thing=thing)
    return Question(kind, text, options, answer, event, elements)


def caption(world: World) -> str:
    """A caption that tells every event with its time, for pretraining."""
    return " ".join(_sentence(world, event, detailed=True) for event in world.events)


def reasoning(world: World, question: Question) -> str:
    """The reasoning that leads to the answer: the events in order, up to the one that the question is about.

    The last sentence holds the answer. It tells the detail only if the question asks for it.
    """
    asked = question.event
    seen = world.events[: world.events.index(asked) + 1]
    detailed = question.kind in ("flash", "digit")
    return " ".join(_sentence(world, event, detailed and event == asked) for event in seen)


def _sentence(world: World, event: Event, detailed: bool) -> str:
    what = f"{event.start:.2f} to {event.end:.2f}: a {event.color} {event.shape}"
    if not detailed:
        return f"{what}."
    change = "flashes" if world.detail_kind == "color" else "shows the digit"
    return f"{what} that {change} {event.detail}."
