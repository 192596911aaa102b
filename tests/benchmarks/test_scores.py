from __future__ import annotations

from typing import Any

import pytest

from videoreasoner.benchmarks.scores import answer_scores, event_scores, key_element_scores
from videoreasoner.rows import Row


def row(**fields: Any) -> Row:
    return Row.model_validate({"id": "1", "video": "v.mp4", "question": "?", **fields})


ASKED = row(options=["red", "blue"], answer="B", event=[[0, 2], [5, 10]], key_elements=["Red circle", "dot"])


def answer(choice: str | None = "B", **texts: str) -> dict[str, Any]:
    return {
        "choice": choice,
        "completions": {"answer": "blue", **texts},
        "duration_s": 10.0,
        "settings": {"encoder": "some"},
        "keyframes": [],
    }


@pytest.mark.parametrize(
    ("choice", "text", "scores"),
    [
        ("B", "blue", (1.0, 1.0, 1.0)),
        ("B", "(A) red", (1.0, 0.0, 1.0)),
        ("A", "blue", (0.0, 1.0, 1.0)),
        ("B", "some bird", (1.0, 0.0, 0.0)),
        ("A", "", (0.0, 0.0, 0.0)),
    ],
)
def test_the_choice_and_what_was_written_are_scored_apart(
    choice: str, text: str, scores: tuple[float, float, float]
) -> None:
    found = answer_scores(ASKED, answer(choice) | {"completions": {"answer": text}})
    assert (found["answer"], found["answer_written"], found["answer_parsed"]) == scores


@pytest.mark.parametrize(
    ("choice", "text", "scores"),
    [
        ("B", "0.10 to 0.35: a blue circle. </think> blue", (1.0, 1.0, 1.0)),
        ("A", "It is blue. </think> red", (0.0, 0.0, 1.0)),
        (None, "It is blue. </think> a bird", (0.0, 0.0, 0.0)),
        (None, "It is blue", (0.0, 0.0, 0.0)),
    ],
)
def test_of_a_thought_the_answer_behind_it_is_scored(
    choice: str | None, text: str, scores: tuple[float, float, float]
) -> None:
    found = answer_scores(ASKED, answer(choice) | {"completions": {"think": text}})
    assert (found["answer"], found["answer_written"], found["answer_parsed"]) == scores


def event(start: str, end: str) -> str:
    return f"<|event_start|>[{start}, {end}]<|event_end|>"


def test_the_event_is_compared_with_the_true_one_that_fits_best() -> None:
    found = event_scores(ASKED, answer(event=event("0.50", "0.75")))
    assert found["event_iou"] == pytest.approx(0.5)
    assert [found[f"event_r@{t}"] for t in (0.3, 0.5, 0.7)] == [1.0, 1.0, 0.0]
    assert found["event_parsed"] == 1.0


@pytest.mark.parametrize("text", ["", "0.1 to 0.2", event("0.7", "0.2"), event("0.1", "0.2") * 2])
def test_an_unreadable_event_scores_nothing(text: str) -> None:
    found = event_scores(ASKED, answer(event=text))
    assert set(found) == {"event_iou", "event_r@0.3", "event_r@0.5", "event_r@0.7", "event_parsed"}
    assert set(found.values()) == {0.0}


def test_key_elements_count_by_their_words_and_keyframes_by_their_place() -> None:
    found = key_element_scores(ASKED, answer(key_elements="red circle, a cat") | {"keyframes": [{"time_s": 1.0}]})
    assert found == {"key_elements": 0.5, "key_elements_parsed": 1.0, "keyframes_in_event": 1.0}
    outside = answer(key_elements="dot") | {"keyframes": [{"time_s": t} for t in (1.0, 3.0, 4.0, 6.0)]}
    assert key_element_scores(ASKED, outside)["keyframes_in_event"] == 0.5
    nothing = key_element_scores(ASKED, answer(key_elements=" , "))
    assert nothing == {"key_elements": 0.0, "key_elements_parsed": 0.0, "keyframes_in_event": 0.0}
    without = answer(key_elements="dot") | {"settings": {"encoder": "none"}}
    assert "keyframes_in_event" not in key_element_scores(ASKED, without)


def test_an_answer_without_options_is_what_was_written() -> None:
    asked = row(answer="a blue circle")
    found = answer_scores(asked, answer(None) | {"completions": {"answer": "Blue circle."}})
    assert found == {"answer": 1.0, "answer_written": 1.0, "answer_parsed": 1.0}
    found = answer_scores(asked, answer(None) | {"completions": {"answer": "red"}})
    assert found == {"answer": 0.0, "answer_written": 0.0, "answer_parsed": 1.0}


def test_true_events_are_limited_to_the_video() -> None:
    asked = row(event=[[8, 20]])
    assert event_scores(asked, answer(event=event("0.80", "1.00")))["event_iou"] == pytest.approx(1.0)
    assert event_scores(row(event=[[10, 20]]), answer(event=event("0.80", "1.00"))) == {}


def test_what_does_not_apply_is_not_scored() -> None:
    assert event_scores(ASKED, answer()) == {}
    assert key_element_scores(ASKED, answer()) == {}
    bare = row()
    assert answer_scores(bare, answer()) == {}
    assert event_scores(bare, answer(event=event("0.1", "0.2"))) == {}
    assert key_element_scores(bare, answer(key_elements="dot")) == {}
