from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.fake_engine import SETTINGS, FakeEngine
from videoreasoner.errors import VideoError
from videoreasoner.inference.reasoner import Reasoner
from videoreasoner.inference.warnings import trained_tasks, untrained_warnings
from videoreasoner.models.checkpoint import SHIPPED
from videoreasoner.settings import Settings
from videoreasoner.tasks import Task
from videoreasoner.video.frame_array import FrameArray

LOCATES = {Task.EVENT, Task.KEY_ELEMENTS, Task.ANSWER}
STOCK = SETTINGS.model_copy(update={"training": {}})
VIDEO = FrameArray(np.zeros((20, 16, 16, 3), np.uint8), fps=5)


@pytest.mark.parametrize(
    ("training", "tasks"),
    [
        ({}, set()),
        ({"stages": [{"examples": "glances"}, {"examples": "captions"}]}, set()),
        ({"stages": [{"examples": "glances"}, {"lessons": "tasks"}]}, LOCATES),
        ({"recipe": {}, "base": "a model", "before": {}}, {Task.EVENT, Task.ANSWER}),
        ({"recipe": {"tasks": ["answer"]}, "base": "a model", "before": {}}, {Task.ANSWER}),
        (
            {"recipe": {"tasks": ["think"]}, "base": "x", "before": {"recipe": {"tasks": ["event"]}, "before": {}}},
            {Task.THINK, Task.EVENT},
        ),
        ({"stages": "tasks", "recipe": [1], "before": 3}, set()),
        ({"by": "hand"}, set()),
    ],
)
def test_the_record_of_training_says_which_tasks_were_taught(training: dict, tasks: set[Task]) -> None:
    assert trained_tasks(training) == tasks


def test_shipped_checkpoints() -> None:
    tiny, base = (Settings.load(SHIPPED / name) for name in ("tiny", "tiny-base"))
    assert trained_tasks(tiny.training) == LOCATES
    assert trained_tasks(base.training) == set()
    assert untrained_warnings(tiny, "tiny", "focus") == []
    assert untrained_warnings(tiny, "tiny", "direct") == []
    [warning] = untrained_warnings(tiny, "tiny", "think")
    assert "never trained to reason in text" in warning
    [warning] = untrained_warnings(base, "tiny-base", "focus")
    assert "tiny-base was never trained to locate" in warning
    assert "--mode direct" in warning


def test_an_answer_carries_the_warnings() -> None:
    stock = Reasoner(FakeEngine(STOCK))
    [warning] = stock.ask(VIDEO, "What?", ["red", "blue"]).warnings
    assert warning.startswith("fake was never trained to locate")
    answer = stock.ask(VIDEO, "What?", ["red", "blue"])
    assert answer.to_dict()["warnings"] == [warning]
    assert warning in answer.notes
    assert stock.ask(VIDEO, "What?", ["red", "blue"], mode="direct").warnings == []
    assert Reasoner(FakeEngine()).ask(VIDEO, "What?", ["red", "blue"]).warnings == []


def test_what_the_engine_knows_about_the_video_comes_first() -> None:
    engine = FakeEngine(STOCK, warnings=("Not its world.",))
    assert Reasoner(engine).ask(VIDEO, "What?", ["red", "blue"], mode="direct").warnings == ["Not its world."]
    focused = Reasoner(engine).ask(VIDEO, "What?", ["red", "blue"])
    assert focused.warnings[0] == "Not its world."
    assert len(focused.warnings) == 2


def test_an_empty_answer_is_a_warning() -> None:
    engine = FakeEngine(texts={Task.THINK: "", Task.ANSWER: " "})
    for mode in ("think", "direct"):
        assert "The model wrote no answer." in Reasoner(engine).ask(VIDEO, "What?", mode=mode).warnings


def test_tiny_says_that_footage_is_not_its_world(tmp_path: Path) -> None:
    reasoner = Reasoner.from_pretrained("tiny", device="cpu", encoder="none")
    noise = np.random.default_rng(1).integers(0, 256, (24, 48, 64, 3), dtype=np.uint8)
    answers = [reasoner.ask(FrameArray(noise, fps=8), "What shape appears?", ["circle", "cross"], m) for m in
               ("direct", "focus")]  # fmt: skip
    for answer in answers:
        [warning] = answer.warnings
        assert "does not look like the synthetic videos that tiny was trained on" in warning


@pytest.mark.parametrize("content", [b"\x00\x01ftypisom", bytearray(b"ftyp"), np.zeros((2, 4, 4, 3), np.uint8)])
def test_contents_in_place_of_a_video_are_named_without_being_shown(content: object) -> None:
    with pytest.raises(VideoError) as error:
        Reasoner(FakeEngine()).ask(content, "What?")  # type: ignore[arg-type]
    assert type(content).__name__ in str(error.value)
    assert "FrameArray" in str(error.value)
    assert "ftyp" not in str(error.value)
