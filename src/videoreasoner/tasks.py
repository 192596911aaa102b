"""The tasks: what the model is to write for each, and how that text is parsed.

Event grounding predicts shares of the video with two decimals between two special tokens; key
elements are a comma list; the answer is a letter or the option's words (paper, section "Multi-task
Cold-start SFT"). Thinking means reasoning as text before the answer. It is the alternative that the
paper compares with and argues against (Video-R1, arXiv 2503.21776).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import StrEnum

from videoreasoner.spans import Span

EVENT_START = "<|event_start|>"
EVENT_END = "<|event_end|>"
EVENT_TOKENS = (EVENT_START, EVENT_END)

THINK_START = "<think>"
THINK_END = "</think>"

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

# A letter that cannot be an article: with punctuation behind it (but not as in "e.g."), or alone on its line.
_LETTER = re.compile(r"\(?([A-Za-z])(?:\)|[:,]|\.(?!\w\.)|[^\S\n]*(?:$|\n|[-\u2013\u2014:]\s))")
_LETTER_AND_WORDS = re.compile(r"\(?([A-Za-z])\s+(.+)", re.DOTALL)
# "A. red", "(A) red", "A: red"; a letter and a space alone may be words.
_OWN_LETTER = re.compile(r"\s*\(?([A-Z])[.):]\s+(\S|\S.*\S)\s*", re.DOTALL)
# English words of one letter.
_WORDS_OF_A_LETTER = "AI"

_EVENT = re.compile(re.escape(EVENT_START) + r"\s*\[\s*(\d*\.?\d+)\s*,\s*(\d*\.?\d+)\s*\]\s*" + re.escape(EVENT_END))


class Task(StrEnum):
    """The continuations that a model can be taught; the values are their names everywhere."""

    EVENT = "event"
    KEY_ELEMENTS = "key_elements"
    ANSWER = "answer"
    THINK = "think"


def judged_by(task: Task) -> Task:
    """The task whose field of a row says whether a completion is right. A thought is judged by its answer."""
    return Task.ANSWER if task is Task.THINK else task


def event_text(span: Span, duration_s: float) -> str:
    """The event as the model writes it: `<|event_start|>[0.12, 0.47]<|event_end|>`.

    An event too short for two decimals becomes the hundredth of the video that holds its middle. An
    empty interval cannot be parsed, so a model trained on it would learn to write events that score 0.
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
    """Words between commas; empty ones, event tokens and repetitions (whatever their case) dropped, order kept."""
    seen: dict[str, str] = {}
    for part in re.split(r"[,;\n]", without_event_tokens(text)):
        element = _bare(part)
        if element:
            seen.setdefault(element.casefold(), element)
    return list(seen.values())


def parse_choice(text: str, options: Sequence[str]) -> str | None:
    """The letter of the option that an answer names by its letter or its words, None without one.

    1. Words come first: an answer that is an option, with or without an article, names it. So "A dog" is
       option B where B says "dog".
    2. A leading letter, small or capital, maybe in brackets, names its option with punctuation behind it or
       alone on its line: "a", "A.", "(a) red", "A: because", "A - red".
    3. A leading letter with words behind it names its option when they are that option's words ("A red"), or
       when it is a capital that is no English word ("B because"). "A" may be the article and "I" the
       pronoun, so that "A red one" and "I think B" name nothing.
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
    known = dict(zip(LETTERS, options, strict=False))
    if (alone := _LETTER.match(answer)) and alone[1].upper() in known:
        return alone[1].upper()
    if (led := _LETTER_AND_WORDS.match(answer)) and led[1].upper() in known:
        letter, words = led[1].upper(), _bare(led[2])
        if words.casefold() == _bare(known[letter]).casefold():
            return letter
        if led[1].isupper() and letter not in _WORDS_OF_A_LETTER:
            return letter
    return None


def without_own_letters(options: Sequence[str]) -> list[str]:
    """Options without the letters that they bring along: "A. red", "B. blue" become "red", "blue".

    Prompts write the letters, so that such options, as those of Video-R1, would read "A. A. red". Letters are taken off
    only where every option begins with its own, with words behind it, and the words differ.
    """
    found = [_OWN_LETTER.fullmatch(option) for option in options]
    words = [match[2] for match in found if match]
    is_own = [match[1] for match in found if match] == list(LETTERS[: len(options)])
    are_different = len({word.casefold() for word in words}) == len(options)
    return words if options and is_own and are_different else list(options)


def thought_text(reasoning: str, answer: str) -> str:
    """Reasoning and answer as the model writes them behind its prefix: `... </think> answer`."""
    return f"{reasoning.strip()} {THINK_END} {answer.strip()}"


def parse_thought(text: str) -> tuple[str, str] | None:
    """Reasoning and answer; None when there is no `</think>`, or nothing behind it.

    The last mark counts. Tags around the answer, as Video-R1 writes them (`<answer> B </answer>`), are
    taken off.
    """
    reasoning, mark, rest = text.rpartition(THINK_END)
    answer = rest.strip().removeprefix("<answer>").removesuffix("</answer>").strip()
    return (reasoning.strip(), answer) if mark and answer else None


def stated_answer(task: Task, text: str) -> str | None:
    """What a completion gives as the answer: all of it, or what follows the reasoning of a thought; None without.

    Event tokens, which a model may write anywhere, are no part of it.
    """
    if task is not Task.THINK:
        return without_event_tokens(text)
    thought = parse_thought(text)
    return None if thought is None else without_event_tokens(thought[1])


def without_event_tokens(text: str) -> str:
    """A text for people: `red <|event_end|>` is "red"."""
    for token in EVENT_TOKENS:
        text = text.replace(token, "")
    return text.strip()


def _bare(text: str) -> str:
    """Without the spaces and full stops around it."""
    return re.sub(r"^[\s.]+|[\s.]+$", "", text)


def _without_article(text: str) -> str:
    return re.sub(r"^(?:an?|the)\s+", "", _bare(text), flags=re.IGNORECASE)
