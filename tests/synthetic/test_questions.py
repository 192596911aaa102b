"""Questions: their truth is the world's truth, and each can be answered."""

from __future__ import annotations

import re
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from videoreasoner.synthetic.questions import Question, Split, caption, make_question, reasoning
from videoreasoner.synthetic.world import (
    COLORS,
    DIGITS,
    SHAPES,
    DetailKind,
    Subset,
    World,
    WorldSettings,
    random_world,
)
from videoreasoner.synthetic.world import render as render_world
from videoreasoner.tasks import key_elements_text, parse_choice, parse_key_elements, parse_thought, thought_text


@st.composite
def asked(draw: st.DrawFn, split: Split) -> tuple[World, Question]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    details: tuple[DetailKind, ...] = get_args(DetailKind)
    subsets: tuple[Subset, ...] = get_args(Subset)
    detail, subset = draw(st.sampled_from(details)), draw(st.sampled_from(subsets))
    world = random_world(rng, WorldSettings(detail=detail), subset)
    event = draw(st.sampled_from(world.events))
    return world, make_question(rng, world, event, split, draw(st.integers(2, 4)))


either = asked("plain") | asked("detail")


@given(asked=either)
@settings(max_examples=100, deadline=None)
def test_options_are_unique_and_hold_the_answer(asked: tuple[World, Question]) -> None:
    _, question = asked
    assert len(set(question.options)) == len(question.options) >= 2
    assert question.answer in question.options
    assert parse_choice(question.answer, question.options) is not None
    assert all(type(option) is str for option in question.options)


@given(asked=either)
@settings(max_examples=100, deadline=None)
def test_questions_are_natural_and_do_not_tell_the_answer(asked: tuple[World, Question]) -> None:
    _, question = asked
    assert question.text.endswith("?")
    assert question.text[0].isupper()
    assert "{" not in question.text
    assert question.answer not in question.text.removesuffix("?").split()


@given(asked=either)
@settings(max_examples=60, deadline=None)
def test_questions_name_one_object_of_the_video(asked: tuple[World, Question]) -> None:
    world, question = asked
    words = set(question.text.replace(":", " ").replace("?", " ").split())
    meant = [e for e in world.events if words & {e.color, e.shape}]
    assert meant == [question.event]


@given(asked=asked("plain"))
@settings(max_examples=60, deadline=None)
def test_plain_answers_can_be_seen_throughout_the_event(asked: tuple[World, Question]) -> None:
    world, question = asked
    event = question.event
    assert event in world.events
    assert question.visible_for == (event.start, event.end)
    assert question.answer == (event.color if question.kind == "color" else event.shape)
    assert set(question.options) <= set(COLORS if question.kind == "color" else SHAPES)
    if question.kind == "color":
        middle = np.array([event.start, (event.start + event.detail_start) / 2])
        for image in render_world(world, middle, 48):
            assert (image == COLORS[question.answer]).all(-1).any()


@given(asked=asked("detail"))
@settings(max_examples=60, deadline=None)
def test_detail_answers_can_be_seen_in_the_detail_window(asked: tuple[World, Question]) -> None:
    world, question = asked
    event = question.event
    assert question.visible_for == (event.detail_start, event.detail_end)
    assert question.kind == ("flash" if world.detail_kind == "color" else "digit")
    assert question.answer == event.detail
    pool = set(COLORS) - {event.color} if world.detail_kind == "color" else set(DIGITS)
    assert set(question.options) <= pool


@given(asked=either)
@settings(max_examples=40, deadline=None)
def test_key_elements_name_the_object_and_survive_being_written(
    asked: tuple[World, Question],
) -> None:
    _, question = asked
    assert question.key_elements[0] == f"{question.event.color} {question.event.shape}"
    assert parse_key_elements(key_elements_text(question.key_elements)) == [*question.key_elements]


def concluded(text: str, question: Question) -> list[str]:
    """The options that a reader of question and reasoning is left with: those in the sentence about the thing."""
    thing = set(re.findall(r"\w+", question.text))
    told = [sentence for sentence in text.split(". ") if thing & {*COLORS, *SHAPES} & set(re.findall(r"\w+", sentence))]
    assert len(told) == 1
    words = told[0].rstrip(".").split()
    return [option for option in question.options if option in words]


@given(asked=either)
@settings(max_examples=150, deadline=None)
def test_the_answer_follows_from_the_reasoning(asked: tuple[World, Question]) -> None:
    world, question = asked
    text = reasoning(world, question)
    assert concluded(text, question) == [question.answer]
    # It ends where the answer is: what came before names other things, what comes after is not told.
    before = world.events[: world.events.index(question.event)]
    assert text.count(": a ") == len(before) + 1
    assert not any(event.detail in text.split(". ")[i].split()[4:] for i, event in enumerate(before))
    assert parse_thought(thought_text(text, question.answer)) == (text, question.answer)


@given(asked=asked("detail"))
@settings(max_examples=40, deadline=None)
def test_reasoning_about_a_detail_is_the_captions_own_words(asked: tuple[World, Question]) -> None:
    world, question = asked
    assert reasoning(world, question).split(". ")[-1] in caption(world)


@pytest.mark.parametrize("split", ["plain", "detail"])
def test_the_place_of_the_answer_and_the_wording_vary(split: Any) -> None:
    rng = np.random.default_rng(0)
    world = random_world(rng, WorldSettings())
    questions = [make_question(rng, world, world.events[0], split) for _ in range(200)]
    places = np.bincount([q.options.index(q.answer) for q in questions], minlength=4)
    assert places.min() > 20
    assert len({q.text for q in questions}) >= 6


def test_the_same_stream_gives_the_same_question() -> None:
    world = random_world(np.random.default_rng(0), WorldSettings())
    one, other = (make_question(np.random.default_rng(1), world, world.events[0], "plain") for _ in "ab")
    assert one == other


@pytest.mark.parametrize("detail", ["color", "digit"])
def test_a_caption_tells_every_event_with_its_time(detail: Any) -> None:
    world = random_world(np.random.default_rng(5), WorldSettings(detail=detail))
    for event in world.events:
        beginning = f"{event.start:.2f} to {event.end:.2f}: a {event.color} {event.shape} that "
        assert beginning in caption(world)
        assert f"{event.detail}." in caption(world)
