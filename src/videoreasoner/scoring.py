"""The one definition of how good a completion is.

Rewards, held-out samples while training, and benchmarks all call `score_completion`. A public benchmark may define its
own truth or its own way to read an answer; then that score is the headline there, and this one stands beside it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from videoreasoner.spans import Span, best_iou
from videoreasoner.tasks import Task, parse_choice, parse_event, parse_key_elements, stated_answer

ReadAs = Literal["event", "key elements", "choice", "number", "text", "no answer"]


class Reference(Protocol):
    """What a completion is compared with. A `Row` is one."""

    @property
    def event(self) -> Sequence[Span] | None: ...
    @property
    def options(self) -> Sequence[str] | None: ...
    @property
    def answer(self) -> str | None: ...


@dataclass(frozen=True)
class Score:
    """What a completion is worth, and how it was read.

    Attributes:
        value: between 0 and 1. For an event: the IoU with the reference span that it fits best. For an answer: 1 if
            it is right. A completion that cannot be read scores 0. None: the row has no reference for this task.
        is_parsed: whether the completion can be read as what its task asks for.
        event: the span that an event completion states, in seconds.
        choice: the letter of the option that an answer names.
        read_as: how the completion was read.
    """

    value: float | None
    is_parsed: bool
    read_as: ReadAs
    event: Span | None = None
    choice: str | None = None


def reference_events(row: Reference, duration_s: float) -> list[Span]:
    """The spans of the row's event, limited to the video; a span that lies outside of the video is left out."""
    return [inside for span in row.event or () if (inside := span.limited_to(duration_s)) is not None]


def score_completion(row: Reference, task: Task, text: str, duration_s: float) -> Score:
    """Score what a model wrote for one task of one row.

    An event is compared with the reference spans limited to the video (temporal IoU, as the paper's IoU reward). An
    answer is read in the form of the reference: as the letter or the words of an option, as a number (relative
    tolerance 1e-6), or as text without case, punctuation and a leading article. For a thought, the answer after the
    reasoning is read in the same way. Key elements are only parsed, since no single list of words is the right one.

    Args:
        text: the completion, without task prefix and end token.
        duration_s: length of the video in seconds.
    """
    if task is Task.EVENT:
        return _score_event(row, text, duration_s)
    if task is Task.KEY_ELEMENTS:
        return Score(None, bool(parse_key_elements(text)), "key elements")
    return _score_answer(row, stated_answer(task, text))


def _score_event(row: Reference, text: str, duration_s: float) -> Score:
    predicted, references = parse_event(text, duration_s), reference_events(row, duration_s)
    value = None
    if references:
        value = 0.0 if predicted is None else best_iou(predicted, references)
    return Score(value, predicted is not None, "event", event=predicted)


def _score_answer(row: Reference, stated: str | None) -> Score:
    wrong = None if row.answer is None else 0.0
    if stated is None:
        return Score(wrong, False, "no answer")
    if row.options:
        choice = parse_choice(stated, row.options)
        value = None if row.answer is None else float(choice == row.answer)
        return Score(value, choice is not None, "choice", choice=choice)
    is_parsed = bool(stated.strip())
    if row.answer is None:
        return Score(None, is_parsed, "text")
    expected = _number(row.answer)
    if expected is not None:
        written = _number(stated)
        is_right = written is not None and math.isclose(written, expected, rel_tol=1e-6)
        return Score(float(is_right), is_parsed, "number")
    return Score(float(_plain(stated) == _plain(row.answer)), is_parsed, "text")


# Commas between groups of three digits only: "1,234" is a number, "1,2" are two, and "0,123" is neither.
_NUMBER = re.compile(r"[+-]?(?:[1-9]\d{0,2}(?:,\d{3})+(?:\.\d*)?|\d+\.?\d*|\.\d+)")


def _number(text: str) -> float | None:
    """The value of a text that is a number and nothing else, such as "1,200", "40 %" or "-3.5."; otherwise None."""
    bare = text.strip().rstrip(".").removesuffix("%").strip()
    return float(bare.replace(",", "")) if _NUMBER.fullmatch(bare) else None


def _plain(text: str) -> str:
    words = re.sub(r"[^\w\s]", " ", text.casefold()).split()
    return " ".join(words[1:] if words[:1] in (["a"], ["an"], ["the"]) else words)
