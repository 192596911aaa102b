"""One definition of each score: what it gives, and that rewards and held-out samples give the same."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.models.qwen_vocabulary import qwen_tokenizer
from videoreasoner.models.prompt_encoder import PromptEncoder
from videoreasoner.prompts import Prompts
from videoreasoner.rows import Row
from videoreasoner.scoring import reference_events, score_completion
from videoreasoner.spans import Span
from videoreasoner.tasks import Task, event_text
from videoreasoner.training.grpo.rewards import load_rewards
from videoreasoner.training.runtime.held_out import _sample


def row(**fields) -> Row:
    return Row.model_validate({"id": "r", "video": "v.mp4", "question": "What?", **fields})


def test_a_perfect_answer_to_an_event_that_ends_behind_the_video_scores_one() -> None:
    """The event [50, 70] of a video of 60 s: no answer can reach beyond [50, 60]."""
    asked = row(event=[50.0, 70.0])
    assert reference_events(asked, 60.0) == [Span(50.0, 60.0)]
    perfect = event_text(Span(48.0, 60.0), 60.0)
    assert score_completion(row(event=[48.0, 70.0]), Task.EVENT, perfect, 60.0).value == pytest.approx(1.0)
    assert score_completion(asked, Task.EVENT, "<|event_start|>[0.83, 1.00]<|event_end|>", 60.0).value > 0.97


def test_the_reference_that_fits_best_counts_and_one_outside_the_video_does_not() -> None:
    asked = row(event=[[0.0, 10.0], [20.0, 30.0], [80.0, 90.0]])
    assert len(reference_events(asked, 40.0)) == 2
    assert score_completion(asked, Task.EVENT, event_text(Span(20.0, 30.0), 40.0), 40.0).value == pytest.approx(1.0)
    outside = score_completion(row(event=[80.0, 90.0]), Task.EVENT, event_text(Span(0.0, 10.0), 40.0), 40.0)
    assert outside.value is None
    assert outside.is_parsed


@pytest.mark.parametrize("text", ["", "0.1 to 0.2", "<|event_start|>[0.5, 0.2]<|event_end|>"])
def test_an_event_that_cannot_be_read_scores_zero(text: str) -> None:
    score = score_completion(row(event=[1.0, 2.0]), Task.EVENT, text, 10.0)
    assert (score.value, score.is_parsed, score.event) == (0.0, False, None)


@pytest.mark.parametrize(
    ("answer", "text", "value"),
    [
        ("12", "12.", 1.0),
        ("a red car", "red car", 1.0),
        ("40 %", "40", 1.0),
        ("Paris", "paris!", 1.0),
        ("12", "13", 0.0),
        ("12", "1,2", 0.0),
        ("1,2", "1,2", 1.0),
        ("1,2", "12", 0.0),
        ("1234", "1,234", 1.0),
        ("1,234,567.5", "1234567.5", 1.0),
        ("1234", "12,34", 0.0),
        ("1234", "1,234.", 1.0),
        ("0.5", ".5", 1.0),
        ("1,2345", "12345", 0.0),
        ("123", "0,123", 0.0),
        ("red", "red <|event_end|>", 1.0),
        ("red", "blue", 0.0),
    ],
)
def test_open_answers_are_read_in_the_form_of_the_reference(answer: str, text: str, value: float) -> None:
    assert score_completion(row(answer=answer), Task.ANSWER, text, 10.0).value == value
    assert score_completion(row(answer=answer), Task.THINK, f"so </think> {text}", 10.0).value == value


def test_options_are_read_as_a_choice() -> None:
    asked = row(options=["red", "blue"], answer="B")
    right = score_completion(asked, Task.ANSWER, "B.", 10.0)
    assert (right.value, right.is_parsed, right.choice, right.read_as) == (1.0, True, "B", "choice")
    unread = score_completion(asked, Task.ANSWER, "green", 10.0)
    assert (unread.value, unread.is_parsed, unread.choice) == (0.0, False, None)


def test_a_thought_without_an_answer_scores_zero() -> None:
    score = score_completion(row(answer="red"), Task.THINK, "it is red", 10.0)
    assert (score.value, score.is_parsed, score.read_as) == (0.0, False, "no answer")


def test_without_a_reference_there_is_no_value() -> None:
    assert score_completion(row(), Task.EVENT, event_text(Span(1.0, 2.0), 10.0), 10.0).value is None
    assert score_completion(row(), Task.ANSWER, "red", 10.0).value is None
    assert score_completion(row(options=["a b", "c d"]), Task.ANSWER, "B", 10.0).value is None
    elements = score_completion(row(), Task.KEY_ELEMENTS, "a dog, a ball", 10.0)
    assert (elements.value, elements.is_parsed) == (None, True)
    assert not score_completion(row(), Task.KEY_ELEMENTS, " ", 10.0).is_parsed


@pytest.mark.parametrize(
    ("text", "is_parsed"),
    [("It is. </think> B", True), ("It is. </think> a green one", False), ("B", False), ("B </think>", False)],
)
def test_a_thought_is_parsed_where_its_answer_is(text: str, is_parsed: bool) -> None:
    asked = row(options=["red", "blue"], answer="B")
    assert score_completion(asked, Task.THINK, text, 8.0).is_parsed is is_parsed
    assert score_completion(row(answer="red"), Task.THINK, text, 8.0).is_parsed is (is_parsed or "green" in text)


@given(st.integers(0, 10**12), st.sampled_from(["", ".", " %", "%."]), st.sampled_from(["+", "", " "]))
def test_thousands_may_be_separated_where_they_are_and_nowhere_else(number, behind, before) -> None:
    asked = row(answer=str(number))
    written = f"{number:,}"
    assert score_completion(asked, Task.ANSWER, f"{before}{written}{behind}", 10.0).value == 1.0
    moved = f"{written[:-1]},{written[-1]}"
    assert score_completion(asked, Task.ANSWER, moved, 10.0).value == 0.0


@pytest.mark.parametrize(
    ("answer", "text"),
    [("12", "12."), ("a red car", "red car"), ("red car", "a red car."), ("40 %", "40"), ("40", "40 %"), ("12", "1,2")],
)
def test_an_open_answer_is_worth_the_same_as_reward_and_as_held_out_sample(answer: str, text: str) -> None:
    asked, tokenizer = row(answer=answer), qwen_tokenizer()
    encoder = PromptEncoder(tokenizer, Prompts())
    checkpoint = SimpleNamespace(encoder=encoder, end_ids=(encoder.end_id,))
    example = SimpleNamespace(row=asked, duration_s=10.0)
    ids = [*encoder.completion(Task.ANSWER, text), encoder.end_id]
    sample = _sample(checkpoint, example, Task.ANSWER, ids)
    scored = load_rewards({"accuracy": 1.0}).score(asked, 10.0, "v", [Task.ANSWER], ["?"], [sample.text], [ids])
    assert sample.score == scored.totals[0] == (0.0 if text == "1,2" else 1.0)


def test_rewards_and_held_out_samples_give_this_score() -> None:
    """The event [50, 70] of a video of 60 s, and an open answer with an article: once two definitions each."""
    event = row(event=[50.0, 70.0])
    text = "<|event_start|>[0.83, 1.00]<|event_end|>"
    rewards = load_rewards({"event_iou": 1.0, "accuracy": 1.0})
    scored = rewards.score(event, 60.0, "v.mp4", [Task.EVENT], ["?"], [text], [[1]])
    assert scored.totals == [score_completion(event, Task.EVENT, text, 60.0).value]
    answer = row(answer="red car")
    scored = rewards.score(answer, 60.0, "v.mp4", [Task.ANSWER], ["?"], ["a red car."], [[1]])
    assert scored.totals == [score_completion(answer, Task.ANSWER, "a red car.", 60.0).value] == [1.0]
