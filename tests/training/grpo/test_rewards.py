"""Rewards: values by hand, TRL's conventions, and errors that name the function and the row."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.training.random_examples import DURATION_S, row
from videoreasoner.errors import RewardError, SettingError, VideoError
from videoreasoner.rows import Row
from videoreasoner.spans import Span, iou
from videoreasoner.tasks import Task, event_text
from videoreasoner.training.grpo.rewards import Reward, Rewards, TaskReward, load_rewards, reference_fields
from videoreasoner.video.pyav.file import VideoFile

EVENT_8_16 = event_text(Span(8, 16), DURATION_S)
PAPER = load_rewards({"event_iou": 1.0, "event_format": 1.0, "accuracy": 1.0})


def score(rewards: Rewards, asked: Row, *completions: tuple[Task, str]):
    count = len(completions)
    tasks, texts = [task for task, _ in completions], [text for _, text in completions]
    return rewards.score(asked, DURATION_S, "a.mp4", tasks, ["?"] * count, texts, [[1]] * count)


def one(asked: Row, task: Task, text: str) -> dict:
    scores = score(PAPER, asked, (task, text))
    return {name: values[0] for name, values in scores.each.items()}


@pytest.mark.parametrize(
    ("text", "iou_value", "format_value"),
    [
        (EVENT_8_16, 1.0, 1.0),
        ("<|event_start|>[0.20, 0.30]<|event_end|>", 0.5, 1.0),
        ("<|event_start|>[0.50, 0.60]<|event_end|>", 0.0, 1.0),
        ("<|event_start|>[0.40, 0.20]<|event_end|>", 0.0, 0.0),
        ("<|event_start|>[0.20, 0.20]<|event_end|>", 0.0, 0.0),
        ("<|event_start|>[0.20, 1.40]<|event_end|>", 0.0, 0.0),
        (EVENT_8_16 + EVENT_8_16, 0.0, 0.0),
        ("[0.20, 0.40]", 0.0, 0.0),
        ("", 0.0, 0.0),
    ],
)
def test_events(text: str, iou_value: float, format_value: float) -> None:
    assert one(row(), Task.EVENT, text) == {
        "event_iou": pytest.approx(iou_value),
        "event_format": format_value,
        "accuracy": None,
    }


@given(st.integers(0, 99), st.integers(1, 100), st.lists(st.integers(0, 38), min_size=1, max_size=3))
def test_the_best_fitting_reference_counts(start: int, length: int, starts: list[int]) -> None:
    predicted = Span.from_ratios(start / 100, min(start + length, 100) / 100, DURATION_S)
    references = [Span(s, s + 2.0) for s in starts]
    value = one(row(event=[[r.start_s, r.end_s] for r in references]), Task.EVENT, event_text(predicted, DURATION_S))
    assert value["event_iou"] == pytest.approx(max(iou(predicted, r) for r in references))


def test_an_event_behind_the_end_of_the_video_is_cut_off() -> None:
    assert one(row(event=[20.0, 90.0]), Task.EVENT, event_text(Span(20, 40), DURATION_S))["event_iou"] == 1.0
    assert one(row(event=[50.0, 90.0]), Task.EVENT, EVENT_8_16)["event_iou"] is None


@pytest.mark.parametrize(
    ("fields", "right", "wrong"),
    [
        ({}, ["B", "B.", "(b)", "blue", "Blue.", "B. blue"], ["A", "red", "Bred", "", "both"]),
        ({"options": None, "answer": "12"}, ["12", "12.0", " 12. ", "+12"], ["2", "112", "twelve", "12 13", ""]),
        ({"options": None, "answer": "1,200"}, ["1200", "1,200"], ["1.2", "200"]),
        ({"options": None, "answer": "40 %"}, ["40%", "40"], ["0.4"]),
        ({"options": None, "answer": "a red circle"}, ["Red circle.", "the red circle"], ["red", "circle red", ""]),
    ],
)
def test_answers_are_read_as_the_row_writes_them(fields: dict, right: list[str], wrong: list[str]) -> None:
    asked = row(**fields)
    for text in right:
        assert one(asked, Task.ANSWER, text) == {"event_iou": None, "event_format": None, "accuracy": 1.0}, text
    for text in wrong:
        assert one(asked, Task.ANSWER, text)["accuracy"] == 0.0, text


@pytest.mark.parametrize("text", ["B", "A", "blue", "", "a red one", "12", "12.0"])
@pytest.mark.parametrize("fields", [{}, {"options": None, "answer": "12"}, {"options": None, "answer": "a red one"}])
def test_a_thought_is_worth_its_answer(fields: dict, text: str) -> None:
    asked = row(**fields)
    thought = one(asked, Task.THINK, f"It is A, or B? Let me see: 12. </think> {text}")
    assert thought == one(asked, Task.ANSWER, text)
    assert one(asked, Task.THINK, text)["accuracy"] == 0.0


def test_a_thought_is_judged_by_the_answer_of_a_row_alone() -> None:
    paper = list(PAPER.functions)
    assert reference_fields(paper, Task.THINK) == reference_fields(paper, Task.ANSWER) == {Task.ANSWER}
    assert reference_fields(["rewards.py:f"], Task.THINK) == {Task.ANSWER}
    assert reference_fields(["key_element_retrieval"], Task.KEY_ELEMENTS) == {Task.EVENT}
    both = reference_fields(["key_element_retrieval", "rewards.py:f"], Task.KEY_ELEMENTS)
    assert both == {Task.EVENT}
    PAPER.check_tasks([Task.THINK])


def test_the_total_is_the_weighted_sum_of_the_rewards_that_concern_it() -> None:
    rewards = load_rewards({"event_iou": 2.0, "event_format": 0.5, "accuracy": 3.0})
    scores = score(rewards, row(), (Task.EVENT, "<|event_start|>[0.20, 0.30]<|event_end|>"), (Task.ANSWER, "B"))
    assert scores.totals == [pytest.approx(2 * 0.5 + 0.5), 3.0]
    assert scores.each == {
        "event_iou": [pytest.approx(0.5), None],
        "event_format": [1.0, None],
        "accuracy": [None, 1.0],
    }
    assert scores.breakdowns[0]["event_iou/parsed"] is True
    assert scores.breakdowns[0]["event_iou/end_s"] == pytest.approx(12.0)
    assert scores.breakdowns[1] == {"accuracy/read_as": "choice", "accuracy/choice": "B"}


def test_a_function_sees_trls_columns() -> None:
    seen = {}

    def spy(prompts, completions, completion_ids, **columns):
        seen.update(columns, prompts=prompts, completions=completions, completion_ids=completion_ids)
        return [1.0 for _ in completions]

    score(Rewards({"spy": spy}, {"spy": 1.0}), row(difficulty="hard"), (Task.EVENT, "x"), (Task.ANSWER, "y"))
    assert seen["completions"] == ["x", "y"]
    assert seen["completion_ids"] == [[1], [1]]
    assert seen["task"] == ["event", "answer"]
    assert seen["difficulty"] == ["hard", "hard"]
    assert seen["event"] == [[Span(8.0, 16.0)]] * 2
    assert seen["duration"] == [DURATION_S] * 2
    assert all(len(values) == 2 for values in seen.values())


@pytest.mark.parametrize("value", [np.float32(0.5), torch.tensor(0.5), Reward(0.5, why="so"), True, 1])
def test_whatever_is_a_number_is_a_reward(value) -> None:
    scores = score(Rewards({"f": lambda **_: [value]}, {"f": 1.0}), row(), (Task.ANSWER, "B"))
    assert scores.totals == [float(value)]
    assert type(scores.each["f"][0]) is float


def test_functions_come_from_files_and_modules(tmp_path, monkeypatch) -> None:
    (tmp_path / "mine.py").write_text(
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "@dataclass\nclass Weight:\n    value: float = 1.0\n"
        "def long(completions, **_):\n    return [len(c) * Weight().value for c in completions]\n"
    )
    rewards = load_rewards({f"{tmp_path / 'mine.py'}:long": 2.0, "accuracy": 1.0})
    assert list(rewards.functions) == ["long", "accuracy"]
    assert score(rewards, row(), (Task.EVENT, "four")).totals == [8.0]
    monkeypatch.syspath_prepend(tmp_path)
    assert list(load_rewards({"mine.long": 1.0}).functions) == ["long"]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({}, "name at least one"),
        ({"event_iuo": 1.0}, "'event_iuo' is none of accuracy, event_format, event_iou"),
        ({"event_iou": math.inf}, "weight of event_iou is inf"),
        ({"no.such.thing": 1.0}, "no.such.thing: cannot be loaded (ModuleNotFoundError"),
        ({"nowhere.py:f": 1.0}, "nowhere.py:f: cannot be loaded (FileNotFoundError"),
        ({"math.nothing": 1.0}, "math has no function nothing"),
        ({"math.pi": 1.0}, "math has no function pi"),
        ({"accuracy": 1.0, "x.accuracy": 1.0}, "two functions are called accuracy"),
    ],
)
def test_what_cannot_be_loaded_is_named(weights: dict, message: str) -> None:
    with pytest.raises(SettingError, match=re.escape(message)):
        load_rewards(weights)


def test_a_file_that_does_not_compile_is_named(tmp_path) -> None:
    (tmp_path / "bad.py").write_text("def f(:\n")
    with pytest.raises(SettingError, match=r"bad\.py:f: cannot be loaded \(SyntaxError"):
        load_rewards({f"{tmp_path / 'bad.py'}:f": 1.0})


class OwnError(Exception):
    """Of somebody else's reward."""


def raise_own() -> None:
    raise OwnError("no")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda **_: [1.0, 2.0], "reward f, row row-0: returned 2 values for 1 completions"),
        (lambda **_: [math.nan], "reward f, row row-0: returned nan"),
        (lambda **_: [-math.inf], "reward f, row row-0: returned -inf"),
        (lambda **_: ["good"], "reward f, row row-0: returned 'good'"),
        (lambda **_: None, "reward f, row row-0: raised TypeError"),
        (lambda **_: [1 / 0], "reward f, row row-0: raised ZeroDivisionError: division by zero"),
        (lambda **_: raise_own(), "reward f, row row-0: raised OwnError: no"),
        (lambda **columns: columns["nothing"], "reward f, row row-0: raised KeyError"),
        (lambda **_: [None], "row row-0: no reward (f) concerns its completion of the task answer"),
    ],
)
def test_a_function_that_fails_is_named_with_the_row(function, message: str) -> None:
    with pytest.raises(RewardError, match=re.escape(message)):
        score(Rewards({"f": function}, {"f": 1.0}), row(), (Task.ANSWER, "B"))


def test_a_video_that_a_function_cannot_read_is_not_the_functions_fault() -> None:
    with pytest.raises(VideoError, match=re.escape("reward f: gone.mp4: no such file")):
        score(Rewards({"f": lambda **_: VideoFile("gone.mp4")}, {"f": 1.0}), row(), (Task.ANSWER, "B"))


def test_tasks_that_no_reward_concerns_are_refused_before_the_run() -> None:
    PAPER.check_tasks([Task.EVENT, Task.ANSWER])
    with pytest.raises(SettingError, match=r"no reward of the recipe .* concerns the task key_elements"):
        PAPER.check_tasks([Task.EVENT, Task.KEY_ELEMENTS])
    # What a foreign function concerns cannot be known.
    Rewards({"f": lambda **_: []}, {"f": 1.0}).check_tasks(list(Task))


def test_a_shipped_reward_declares_its_tasks() -> None:
    assert {name: f.tasks for name, f in PAPER.functions.items() if isinstance(f, TaskReward)} == {
        "event_iou": (Task.EVENT,),
        "event_format": (Task.EVENT,),
        "accuracy": (Task.ANSWER, Task.THINK),
    }
