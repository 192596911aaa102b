from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fake_engine import SETTINGS, FakeEncoder, FakeEngine
from tests.training.toy import make_model
from tests.video.videos import Recipe, overwrite_packets
from videoreasoner.errors import CheckpointError, SettingError, VideoError
from videoreasoner.inference.answer import Answer, FrameUse
from videoreasoner.inference.query import Query
from videoreasoner.inference.reasoner import Reasoner
from videoreasoner.retrieval.keyframes import retrieval_times
from videoreasoner.spans import Span
from videoreasoner.synthetic.videos import VideoSettings, video_world, write_video
from videoreasoner.tasks import EVENT_END, EVENT_START, LETTERS, Task
from videoreasoner.video.pyav.file import VideoFile
from videoreasoner.video.sampling import focus_plan, uniform_plan

DURATION_S = 12.0
UNREADABLE = "no readable interval was written for the event"
NAMELESS = "no key element was named"
UNUSABLE = "nothing usable was located, so the frames stay evenly spread"


@pytest.fixture(scope="module")
def video_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("videos") / "video.mp4"
    made = VideoSettings(duration_s=DURATION_S, size=32, fps=20)
    write_video(path, video_world(made, 0), made)
    return path


@pytest.fixture(scope="module")
def tiny() -> Reasoner:
    return Reasoner.from_pretrained("tiny", device="cpu", max_thought_tokens=24)


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


@pytest.mark.parametrize("options", [(), ("red", "blue", "green")])
def test_an_answer_is_plain_data(tiny: Reasoner, video_file: Path, options: tuple[str, ...]) -> None:
    answer = tiny.ask(video_file, "What color is the circle?", options)
    record = json.loads(json.dumps(answer.to_dict(), allow_nan=False))
    assert record["question"] == "What color is the circle?"
    assert record["video"] == str(video_file)
    assert record["model"] == "tiny"
    assert [FrameUse(**frame) for frame in record["frames"]] == answer.frames
    assert set(record["timing"]) <= {"decode", "encode", "prefill", "generate", "retrieve", "total"}


def test_many_questions_equal_one_by_one_and_cost_less(tiny: Reasoner, video_file: Path) -> None:
    queries = [
        Query("What color is the circle?", ("red", "blue", "green")),
        Query("What happens?"),
        Query("Which shape comes first?", ("square", "circle")),
    ]
    for mode in ("focus", "direct", "think"):
        together = tiny.ask_many(video_file, queries, mode)
        for number, (query, answer) in enumerate(zip(queries, together, strict=True)):
            alone = tiny.ask(video_file, query.text, query.options, mode)
            for name in ("text", "choice", "event", "key_elements", "key_spans", "keyframes", "frames", "notes"):
                assert getattr(answer, name) == getattr(alone, name), name
            assert answer.confidence == (alone.confidence and pytest.approx(alone.confidence, abs=1e-5))
            if number:
                assert answer.usage.frames_decoded < alone.usage.frames_decoded
                assert answer.usage.pairs_encoded < alone.usage.pairs_encoded
                assert answer.usage.tokens_in < alone.usage.tokens_in
                assert answer.usage.frames_searched == 0


def test_answers_come_one_at_a_time(video_file: Path) -> None:
    engine = FakeEngine()
    answers = Reasoner(engine).iter_answers(video_file, [Query("one?"), Query("two?")], "direct")
    assert next(answers).question == "one?"
    assert len(engine.calls) == 1
    assert [answer.question for answer in answers] == ["two?"]


# What cannot be asked.


def test_the_times_of_a_part_are_those_of_the_whole_video(video_file: Path) -> None:
    engine = FakeEngine(SETTINGS)
    engine.texts[Task.EVENT] = f"{EVENT_START}[0.25, 0.50]{EVENT_END}"
    engine.texts[Task.KEY_ELEMENTS] = "a red square"
    reasoner = Reasoner(engine, FakeEncoder())
    answer = reasoner.ask(video_file, "What?", start_s=4.0, end_s=10.0)
    assert answer.range == Span(4.0, 10.0)
    assert answer.duration_s == DURATION_S
    assert answer.event == Span(5.5, 7.0)
    assert answer.notes[0] == "only the video from 4 s to 10 s was looked at"
    assert answer.keyframes
    times_s = [frame.time_s for frame in answer.frames] + [k.time_s for k in answer.keyframes]
    assert all(4.0 <= time_s < 10.0 for time_s in times_s)
    with VideoFile(video_file) as video:
        assert np.isclose(np.asarray(times_s)[:, None], video.frame_times_s).any(axis=1).all()
    assert Answer.from_dict(json.loads(json.dumps(answer.to_dict()))) == answer
    assert reasoner.ask(video_file, "What?").range is None


def test_an_unknown_mode_is_refused(video_file: Path) -> None:
    with pytest.raises(SettingError, match=r"'slow'.*focus, direct, think"):
        Reasoner(FakeEngine()).ask(video_file, "What?", mode="slow")


def test_overrides_and_the_encoder_reach_the_reasoner() -> None:
    reasoner = Reasoner.from_pretrained("tiny", device="cpu", encoder="none", frame_budget=6, constrain_event=False)
    assert reasoner.settings.frame_budget == 6
    assert reasoner.encoder is None
    assert getattr(reasoner.engine, "constrain_event", None) is False
    with pytest.raises(CheckpointError, match="no-such-encoder"):
        Reasoner.from_pretrained("tiny", device="cpu", encoder="./no-such-encoder")


def test_a_video_that_is_open_is_asked_about_and_stays_open(video_file: Path) -> None:
    by_name = Reasoner(FakeEngine(), FakeEncoder()).ask(video_file, "What?")
    with VideoFile(video_file) as video:
        answers = [Reasoner(FakeEngine(), FakeEncoder()).ask(video, "What?") for _ in range(2)]
        assert video.frames_at([0.0]).times_s.tolist() == [0.0]
    for answer in answers:
        assert replace(answer, timing={}) == replace(by_name, timing={})


# Odd videos.


@pytest.fixture(params=["focus", "direct", "think"])
def mode(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe("one.mp4", count=1),
        Recipe("two.mp4", count=2),
        Recipe("small.mp4", count=12, size=(2, 2)),
        Recipe("pixel.mkv", codec="ffv1", count=12, size=(1, 1), pixel_format="yuv444p"),
        Recipe("wide.mp4", count=4, size=(400, 2)),
        Recipe("uneven.mp4", stamps=[0, 1, 2, 900, 901, 5000], tick_s=Recipe("x").tick_s / 40),
    ],
    ids=lambda recipe: recipe.file_name,
)
def test_videos_that_are_short_or_small_are_answered(tiny: Reasoner, tmp_path: Path, recipe: Recipe, mode: str) -> None:
    answer = tiny.ask(recipe.make(tmp_path), "What is it?", ["red", "blue"], mode)
    assert answer.choice in ("A", "B") or mode == "think"
    assert answer.frames
    assert len(answer.frames) <= tiny.settings.frame_budget
    assert all(0 <= frame.time_s < answer.duration_s for frame in answer.frames)


def test_frames_that_are_absurdly_long_are_refused_by_name(tiny: Reasoner, tmp_path: Path, mode: str) -> None:
    path = Recipe("ribbon.mp4", count=4, size=(402, 2)).make(tmp_path)
    with pytest.raises(VideoError, match="402x2") as caught:
        tiny.ask(path, "What is it?", mode=mode)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("damaged", [range(20, 40), range(8), range(50, 60)], ids=str)
def test_every_answer_about_a_damaged_video_says_so(tiny: Reasoner, tmp_path: Path, mode: str, damaged: range) -> None:
    path = Recipe("damaged.mp4", count=60, options={"bf": "0", "g": "5"}).make(tmp_path)
    overwrite_packets(path, lambda number: number in damaged)
    for answer in tiny.ask_many(path, [Query("What is it?", ("red", "blue"))] * 2, mode):
        assert answer.choice in ("A", "B") or mode == "think"
        assert any("decode" in note for note in answer.notes)


@pytest.mark.parametrize("content", [None, b"", b"no video", bytes(range(256)) * 40])
def test_a_file_that_is_no_video_is_refused_by_name(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "video.mp4"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(VideoError) as caught:
        Reasoner(FakeEngine()).ask(path, "What?")
    assert str(path) in str(caught.value)
