"""The completions of one example with their rewards: groups, lengths, and which of them are learned from."""

from __future__ import annotations

import torch

from tests.training.random_examples import random_example
from videoreasoner.tasks import Task
from videoreasoner.training.grpo.losses import group_advantages, same_rewards
from videoreasoner.training.grpo.rewards import RewardScores
from videoreasoner.training.grpo.rollouts import Rollout
from videoreasoner.training.grpo.scored import ScoredRollouts

GOOD = "<|event_start|>[0.20, 0.40]<|event_end|>"


def scored() -> ScoredRollouts:
    """Two events with different rewards, one of them cut off, and two answers with equal ones."""
    rollouts = [
        Rollout(Task.EVENT, 0, (31, 32, 33), torch.zeros(3), True),
        Rollout(Task.EVENT, 1, (34,), torch.zeros(1), False),
        Rollout(Task.ANSWER, 0, (35, 36), torch.zeros(2), True),
        Rollout(Task.ANSWER, 1, (37, 38), torch.zeros(2), True),
    ]
    scores = RewardScores([2.0, 0.0, 1.0, 1.0], {"total": [2.0, 0.0, 1.0, 1.0]}, [{"total/part": 1}, {}, {}, {}])
    return ScoredRollouts(random_example(), None, rollouts, [GOOD, "nothing", "B", "green"], scores)


def test_groups_are_tasks_and_parsing_is_that_of_the_score() -> None:
    one = scored()
    assert one.groups.tolist() == [0, 0, 1, 1]
    assert one.lengths.tolist() == [3, 1, 2, 2]
    assert one.is_finished.tolist() == [True, False, True, True]
    assert one.is_parsed.tolist() == [1.0, 0.0, 1.0, 0.0]


def test_a_group_of_equal_rewards_and_a_masked_completion_are_not_learned_from() -> None:
    one = scored()
    one.advantages = group_advantages(one.totals, one.groups)
    one.is_learned = ~same_rewards(one.totals, one.groups)
    assert one.learned_completions() == {Task.EVENT: [(31, 32, 33), (34,)]}
    one.is_learned = one.is_finished & one.is_learned
    assert one.learned == [0]
    assert one.learned_completions() == {Task.EVENT: [(31, 32, 33)]}


def test_records_hold_what_people_look_for() -> None:
    one = scored()
    one.advantages = group_advantages(one.totals, one.groups)
    first, second, *_ = one.records()
    assert (first.task, first.completion, first.reward, first.breakdown) == ("event", GOOD, 2.0, {"total/part": 1})
    assert first.advantage > 0 > second.advantage
    assert (second.tokens, second.finished) == (1, False)
