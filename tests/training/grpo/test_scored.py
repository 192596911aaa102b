"""Completions with their rewards: groups, parse rates, what is learned, and how people read them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from videoreasoner.rows import Row
from videoreasoner.tasks import Task
from videoreasoner.training.grpo.rewards import RewardScores
from videoreasoner.training.grpo.rollouts import Rollout
from videoreasoner.training.grpo.scored import ScoredRollouts

ROW = Row(id="a", video="v.mp4", question="What?", options=["red", "blue"], answer="A", event=[1.0, 2.0])
TEXTS = ["<|event_start|>[0.10, 0.20]<|event_end|>", "somewhere", "A", "B"]


def scored() -> ScoredRollouts:
    tasks = (Task.EVENT, Task.EVENT, Task.ANSWER, Task.ANSWER)
    rollouts = [
        Rollout(task, i % 2, tuple(range(i + 1)), torch.zeros(i + 1), finished=i != 3) for i, task in enumerate(tasks)
    ]
    example: Any = SimpleNamespace(
        row=ROW, duration_s=10.0, prompt=SimpleNamespace(prefixes={Task.EVENT: (1,), Task.ANSWER: (2,)})
    )
    each = {"event_iou": [1.0, 0.0, None, None], "accuracy": [None, None, 1.0, 0.0]}
    scores = RewardScores([1.0, 0.0, 1.0, 0.0], each, [{}, {}, {}, {"accuracy/why": "wrong"}])
    return ScoredRollouts(example, None, rollouts, TEXTS, scores, advantages=torch.tensor([0.5, -0.5, 0.5, -0.5]))


def test_a_group_is_a_task() -> None:
    assert scored().groups.tolist() == [0, 0, 1, 1]
    assert scored().lengths.tolist() == [1, 2, 3, 4]
    assert scored().is_finished.tolist() == [True, True, True, False]


def test_what_cannot_be_read_is_not_parsed() -> None:
    assert scored().is_parsed.tolist() == [1.0, 0.0, 1.0, 1.0]


def test_only_learned_completions_are_laid_out_by_task_in_their_order() -> None:
    one = scored()
    one.is_learned = torch.tensor([True, False, True, True])
    assert one.learned == [0, 2, 3]
    assert one.learned_completions() == {Task.EVENT: [(0,)], Task.ANSWER: [(0, 1, 2), (0, 1, 2, 3)]}


def test_a_record_holds_each_reward_and_the_advantage() -> None:
    records = scored().records()
    assert [record.reward for record in records] == [1.0, 0.0, 1.0, 0.0]
    assert records[0].rewards == {"event_iou": 1.0, "accuracy": None}
    assert records[3].breakdown == {"accuracy/why": "wrong"}
    assert (records[3].task, records[3].completion, records[3].finished) == ("answer", "B", False)
    assert [record.advantage for record in records] == [0.5, -0.5, 0.5, -0.5]
