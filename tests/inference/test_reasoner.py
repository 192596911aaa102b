from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.fake_engine import SETTINGS, FakeEncoder, FakeEngine
from tests.video.videos import Recipe, overwrite_packets
from videoreasoner.errors import CheckpointError, SettingError, VideoError
from videoreasoner.inference.answer import Answer, FrameUse
from videoreasoner.inference.query import Query
from videoreasoner.inference.reasoner import Reasoner
from videoreasoner.spans import Span
from videoreasoner.tasks import EVENT_END, EVENT_START, Task
from videoreasoner.video.pyav.file import VideoFile

DURATION_S = 12.0


@pytest.mark.parametrize("options", [(), ("red", "blue", "green")])
def test_an_answer_is_plain_data(tiny: Reasoner, video_file: Path, options: tuple[str, ...]) -> None:
    answer = tiny.ask(video_file, "What color is the circle?", options)
    record = json.loads(json.dumps(answer.to_dict(), allow_nan=False))
    assert record["question"] == "What color is the circle?"
    assert record["video"] == str(video_file)
    assert record["model"] == "tiny"
    assert [FrameUse(**frame) for frame in record["frames"]] == answer.frames
    assert set(record["timing"]) <= {"open", "decode", "encode", "prefill", "generate", "retrieve", "total"}


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


def test_the_times_of_a_part_are_those_of_the_whole_video(video_file: Path) -> None:
    engine = FakeEngine(SETTINGS)
    engine.texts[Task.EVENT] = f"{EVENT_START}[0.25, 0.50]{EVENT_END}"
    engine.texts[Task.KEY_ELEMENTS] = "1"
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
        assert all(np.isclose(video.frame_times_s, keyframe.time_s).any() for keyframe in answer.keyframes)
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
