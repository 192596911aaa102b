from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fake_engine import SETTINGS, FakeEncoder, FakeEngine
from tests.training.toy import make_model
from videoreasoner.inference.answer import Answer, FrameUse
from videoreasoner.inference.query import Query
from videoreasoner.inference.reasoner import Reasoner
from videoreasoner.retrieval.keyframes import retrieval_times
from videoreasoner.spans import Span
from videoreasoner.tasks import LETTERS, Task
from videoreasoner.video.sampling import focus_plan, uniform_plan

DURATION_S = 12.0
UNREADABLE = "no readable interval was written for the event"
NAMELESS = "no key element was named"
UNUSABLE = "nothing usable was located, so the frames stay evenly spread"


def _ask(video_file: Path, texts: dict[Task, str], encoder: FakeEncoder | None = None, **changes: Any) -> Answer:
    engine = FakeEngine(SETTINGS.changed(**changes))
    engine.texts.update(texts)
    return Reasoner(engine, encoder).ask(video_file, "What?")


def _uses(plan: Any) -> list[FrameUse]:
    return [FrameUse(t, bool(plan.dense[i // 2])) for i, t in enumerate(plan.times_s.tolist())]


UNIFORM = uniform_plan(DURATION_S, SETTINGS.sampling)


# Locate and focus, with an engine that writes what the test says.


@pytest.mark.parametrize("written", ["", "soon", "[0.2, 0.4]", "<|event_start|>[0.5, 0.5]<|event_end|>"])
def test_without_event_and_elements_the_evidence_says_so_and_frames_stay_spread(video_file: Path, written: str) -> None:
    answer = _ask(video_file, {Task.EVENT: written, Task.KEY_ELEMENTS: " , ."}, FakeEncoder())
    assert answer.notes == [UNREADABLE, NAMELESS, UNUSABLE]
    assert answer.event is None
    assert answer.key_elements == answer.keyframes == answer.key_spans == []
    assert answer.frames == _uses(UNIFORM)
    assert answer.completions[Task.EVENT] == written


def test_an_unreadable_event_leaves_the_keyframes_to_focus_on(video_file: Path) -> None:
    answer = _ask(video_file, {Task.EVENT: "soon", Task.KEY_ELEMENTS: "4"}, FakeEncoder())
    assert answer.notes == [UNREADABLE]
    assert answer.key_spans == [Span(4.0, 5.0)]
    assert any(frame.dense for frame in answer.frames)


def test_without_key_elements_the_event_is_focused_on(video_file: Path) -> None:
    encoder = FakeEncoder()
    answer = _ask(video_file, {}, encoder)
    assert answer.notes == [NAMELESS]
    assert answer.event == Span(3.0, 6.0)
    assert answer.key_spans == [answer.event]
    # The video's frames are ready before anything is named; nothing is looked for in them.
    assert answer.usage.frames_searched == encoder.images > 0
    assert encoder.texts == answer.keyframes == []


def test_event_and_keyframes_are_merged_and_seen(video_file: Path) -> None:
    encoder = FakeEncoder()
    answer = _ask(video_file, {Task.KEY_ELEMENTS: "6, 10, 0"}, encoder)
    assert answer.notes == []
    assert answer.key_elements == ["6", "10", "0"]
    assert {k.element: round(k.time_s, 6) for k in answer.keyframes} == {"6": 6.5, "10": 10.5, "0": 0.5}
    # [3, 6] touches the second around 6.5, which becomes one span with it.
    assert answer.key_spans == [Span(0.0, 1.0), Span(3.0, 7.0), Span(10.0, 11.0)]
    dense = [frame.time_s for frame in answer.frames if frame.dense]
    assert {6.5, 10.5, 0.5} <= set(dense)
    assert all(any(span.contains(t) for span in answer.key_spans) for t in dense)
    plan = focus_plan(DURATION_S, answer.key_spans, SETTINGS.sampling, [k.time_s for k in answer.keyframes])
    assert answer.frames == _uses(plan)


@pytest.mark.parametrize("encoder", [None, FakeEncoder()])
def test_without_an_encoder_or_room_for_elements_the_event_alone_is_used(
    video_file: Path, encoder: FakeEncoder | None
) -> None:
    changes = {} if encoder is None else {"max_key_elements": 0}
    answer = _ask(video_file, {Task.KEY_ELEMENTS: "6, 10"}, encoder, **changes)
    assert answer.key_elements == ["6", "10"]
    assert answer.keyframes == []
    assert answer.key_spans == [Span(3.0, 6.0)]


def test_only_the_first_key_elements_are_looked_for(video_file: Path) -> None:
    encoder = FakeEncoder()
    answer = _ask(video_file, {Task.KEY_ELEMENTS: "3, 1, 2"}, encoder, max_key_elements=2)
    assert encoder.texts == ["3", "1"]
    assert {keyframe.element for keyframe in answer.keyframes} == {"3", "1"}
    assert answer.key_elements == ["3", "1", "2"]


@pytest.mark.parametrize("at_once", [1, 7 * 32 * 32 * 3, 2**28])
def test_a_long_video_is_searched_in_batches_and_within_its_limit(
    video_file: Path, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("videoreasoner.retrieval.search._BATCH_BYTES", at_once)
    encoder = FakeEncoder()
    answer = _ask(video_file, {Task.KEY_ELEMENTS: "100"}, encoder, retrieval_rate_fps=20, retrieval_max_frames=130)
    assert encoder.images == answer.usage.frames_searched == 130
    wanted = retrieval_times(DURATION_S, 20, 130)[100]
    assert answer.keyframes[0].time_s == pytest.approx(wanted, abs=1 / 20)


def test_a_dense_share_of_nothing_stays_uniform(video_file: Path) -> None:
    answer = _ask(video_file, {}, dense_share=0.0)
    assert answer.frames == _uses(UNIFORM)
    assert answer.key_spans == []
    assert UNUSABLE in answer.notes


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    start=st.integers(0, 99),
    length=st.integers(1, 100),
    elements=st.lists(st.integers(0, 11), max_size=10),
    budget=st.integers(2, 40),
    share=st.floats(0, 1),
)
def test_the_budget_holds_whatever_was_located(
    video_file: Path, start: int, length: int, elements: list[int], budget: int, share: float
) -> None:
    event = f"<|event_start|>[{start / 100:.2f}, {min(start + length, 100) / 100:.2f}]<|event_end|>"
    texts = {Task.EVENT: event, Task.KEY_ELEMENTS: ", ".join(map(str, elements))}
    answer = _ask(video_file, texts, FakeEncoder(), frame_budget=budget, dense_share=share)
    times = [frame.time_s for frame in answer.frames]
    assert 2 <= len(times) <= budget
    assert times == sorted(set(times))
    assert 0 <= times[0] <= times[-1] < answer.duration_s
    assert all(a.end_s < b.start_s for a, b in zip(answer.key_spans, answer.key_spans[1:], strict=False))
    assert bool(answer.key_spans) == any(frame.dense for frame in answer.frames)


def test_direct_mode_is_one_pass_over_the_uniform_frames(video_file: Path) -> None:
    engine, encoder = FakeEngine(), FakeEncoder()
    answer = Reasoner(engine, encoder).ask(video_file, "What?", mode="direct")
    assert [call.tasks for call in engine.calls] == [(Task.ANSWER,)]
    assert answer.frames == _uses(UNIFORM)
    assert answer.event is None
    assert answer.key_elements == answer.keyframes == answer.key_spans == answer.notes == []
    assert answer.mode == "direct"
    assert set(answer.completions) == {Task.ANSWER}
    assert encoder.images == 0


def test_think_mode_is_one_pass_over_the_uniform_frames_and_shows_no_evidence(video_file: Path) -> None:
    engine, encoder = FakeEngine(), FakeEncoder()
    answer = Reasoner(engine, encoder).ask(video_file, "What?", mode="think")
    assert [call.tasks for call in engine.calls] == [(Task.THINK,)]
    assert answer.frames == _uses(UNIFORM)
    assert answer.event is None
    assert answer.key_elements == answer.keyframes == answer.key_spans == answer.notes == []
    assert answer.completions == {Task.THINK: "it seems so </think> an answer"}
    assert (answer.text, answer.choice, answer.confidence) == ("an answer", None, None)
    assert encoder.images == 0


@pytest.mark.parametrize(
    ("written", "text", "choice", "notes"),
    [
        ("A or B? </think> b", "blue", "B", []),
        ("A or B? </think> blue.", "blue", "B", []),
        ("</think> Red", "red", "A", []),
        ("A or B? </think> a green one", "a green one", None, ["the written answer names none of the options"]),
        ("A or B? </think> ", "A or B? </think>", None, ["the reasoning ends without an answer"]),
        ("blue", "blue", None, ["the reasoning ends without an answer"]),
        ("", "", None, ["The model wrote no answer.", "the reasoning ends without an answer"]),
    ],
)
def test_a_thoughts_choice_is_the_option_that_its_answer_names(
    video_file: Path, written: str, text: str, choice: str | None, notes: list[str]
) -> None:
    engine = FakeEngine()
    engine.texts[Task.THINK] = written
    answer = Reasoner(engine).ask(video_file, "What?", ["red", "blue"], mode="think")
    assert (answer.text, answer.choice, answer.confidence, answer.notes) == (text, choice, None, notes)


def test_reasoning_that_does_not_end_is_cut_off_and_says_so(video_file: Path, tmp_path: Path) -> None:
    """Random weights ramble."""
    rambling = Reasoner.from_pretrained(str(make_model(tmp_path / "model")), device="cpu", max_thought_tokens=24)
    answer = rambling.ask(video_file, "What color is the circle?", ["red", "blue"], mode="think")
    assert answer.usage.tokens_out == 24
    [warning] = answer.warnings
    assert "never trained to reason in text" in warning
    assert answer.notes == [
        warning, "the text was cut off at max_thought_tokens (24)", "the reasoning ends without an answer"
    ]  # fmt: skip
    assert answer.text == answer.completions[Task.THINK] != ""
    assert (answer.choice, answer.confidence) == (None, None)
    assert answer.frames


def test_focus_mode_asks_both_locate_branches_in_one_pass_over_the_uniform_frames(video_file: Path) -> None:
    engine = FakeEngine()
    Reasoner(engine).ask(video_file, "What?", ["a", "b"])
    locate, final = engine.calls
    assert locate.tasks == (Task.EVENT, Task.KEY_ELEMENTS)
    assert locate.plan.times_s.tolist() == UNIFORM.times_s.tolist()
    assert final.tasks == (Task.ANSWER,)
    assert (locate.question, locate.options) == (final.question, final.options) == ("What?", ("a", "b"))


# What comes back.


@given(st.lists(st.floats(-1e4, 0), min_size=2, max_size=len(LETTERS)), st.data())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_confidence_is_a_distribution_and_the_choice_its_largest(
    video_file: Path, log_probs: list[float], data: st.DataObject
) -> None:
    best = data.draw(st.integers(0, len(log_probs) - 1))
    options = [f"option {i}" for i in range(len(log_probs))]
    answer = Reasoner(FakeEngine(best=lambda _: best)).ask(video_file, "What?", options, mode="direct")
    assert answer.confidence is not None
    assert list(answer.confidence) == list(LETTERS[: len(options)])
    assert sum(answer.confidence.values()) == pytest.approx(1.0)
    assert answer.choice == max(answer.confidence, key=answer.confidence.__getitem__) == LETTERS[best]
    assert answer.text == options[best]


def test_without_options_the_text_is_what_was_written(video_file: Path) -> None:
    answer = Reasoner(FakeEngine()).ask(video_file, "What?")
    assert (answer.text, answer.choice, answer.confidence) == ("an answer", None, None)


@pytest.mark.parametrize("mode", ["direct", "think"])
@pytest.mark.parametrize("written", ["so </think> red <|event_end|>", "red <|event_end|> "])
def test_event_tokens_are_in_the_completion_and_not_in_the_answer(video_file: Path, mode: str, written: str) -> None:
    engine = FakeEngine(texts={Task.ANSWER: written, Task.THINK: written})
    answer = Reasoner(engine).ask(video_file, "What?", mode=mode)
    assert answer.text == ("red" if mode == "think" or "</think>" not in written else "so </think> red")
    assert answer.completions == {"think" if mode == "think" else "answer": written}


def test_a_note_says_that_letters_were_left_out(video_file: Path) -> None:
    answer = Reasoner(FakeEngine(best=lambda _: 1)).ask(video_file, "What?", ["A. red", "B. blue"], mode="direct")
    assert (answer.text, answer.choice, answer.options) == ("blue", "B", ("red", "blue"))
    assert answer.notes == ["the letters that the options bring along were left out"]


def test_work_and_time_are_those_of_one_question(video_file: Path) -> None:
    engine = FakeEngine()
    for answer in Reasoner(engine, FakeEncoder()).ask_many(video_file, [Query("one?"), Query("two?")]):
        assert answer.usage.tokens_in == 20
        assert answer.usage.tokens_out == 9
        assert answer.usage.frames_decoded == len(UNIFORM.times_s) + len(answer.frames)
        assert answer.timing["decode"] == 2.0
        assert "idle" not in answer.timing
        assert answer.timing["total"] > 0
    assert engine.opened == 1
