"""The three tasks: what each is asked to write, and how what it wrote is read back.

Event grounding predicts shares of the film with two decimals between two special tokens; key
elements are a comma list; the answer is a letter or the option's words (paper, section "Multi-task
Cold-start SFT").
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import StrEnum

from videoreasoner.spans import Span

EVENT_START = "<|event_start|>"
EVENT_END = "<|event_end|>"
EVENT_TOKENS = (EVENT_START, EVENT_END)

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

_EVENT = re.compile(re.escape(EVENT_START) + r"\s*\[\s*(\d*\.?\d+)\s*,\s*(\d*\.?\d+)\s*\]\s*" + re.escape(EVENT_END))


class Task(StrEnum):
    """The continuations that a trained model knows; the values are their names everywhere."""

    EVENT = "event"
    KEY_ELEMENTS = "key_elements"
    ANSWER = "answer"


def event_text(span: Span, duration_s: float) -> str:
    """The event as the model writes it: `<|event_start|>[0.12, 0.47]<|event_end|>`.

    An event too short for two decimals becomes the hundredth of the film that holds its middle: an
    empty interval could not be read back, and teaching one would teach an answer that scores
    nothing.
    """
    start, end = span.as_ratios(duration_s)
    start_text, end_text = f"{start:.2f}", f"{end:.2f}"
    if start_text == end_text:
        hundredth = min(int((start + end) / 2 * 100), 99)
        start_text, end_text = f"{hundredth / 100:.2f}", f"{(hundredth + 1) / 100:.2f}"
    return f"{EVENT_START}[{start_text}, {end_text}]{EVENT_END}"


def parse_event(text: str, duration_s: float) -> Span | None:
    """The event in seconds; None when unreadable, outside [0, 1], reversed, empty or several."""
    found = _EVENT.findall(text)
    if len(found) != 1:
        return None
    start, end = (float(ratio) for ratio in found[0])
    if not (0.0 <= start < end <= 1.0):
        return None
    return Span.from_ratios(start, end, duration_s)


def key_elements_text(elements: Sequence[str]) -> str:
    return ", ".join(elements)


def parse_key_elements(text: str) -> list[str]:
    """Words between commas, blanks and repetitions (whatever their case) dropped, order kept."""
    seen: dict[str, str] = {}
    for part in re.split(r"[,;\n]", text):
        element = _bare(part)
        if element:
            seen.setdefault(element.casefold(), element)
    return list(seen.values())


def parse_choice(text: str, options: Sequence[str]) -> str | None:
    """The letter of the option that an answer names by its letter or its words, None without one.

    A leading letter counts when nothing but punctuation, a space or the end follows it. Words come
    first, with or without an article, so that "A dog" is not read as a letter when an option says
    "A dog" or "dog".
    """
    answer = text.strip()
    for plain in (_bare, _without_article):
        named = [
            letter
            for letter, option in zip(LETTERS, options, strict=False)
            if plain(answer).casefold() == plain(option).casefold() != ""
        ]
        if len(named) == 1:
            return named[0]
    found = re.match(r"\(?([A-Za-z])\)?(?:[.:,)\s]|$)", answer)
    if found and found[1].upper() in LETTERS[: len(options)]:
        return found[1].upper()
    return None


def _bare(text: str) -> str:
    """Without the blanks and full stops around it."""
    return re.sub(r"^[\s.]+|[\s.]+$", "", text)


def _without_article(text: str) -> str:
    return re.sub(r"^(?:an?|the)\s+", "", _bare(text), flags=re.IGNORECASE)
