"""The completions of one example with their rewards."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from videoreasoner.scoring import score_completion
from videoreasoner.tasks import Task
from videoreasoner.training.data.examples import Example
from videoreasoner.training.grpo.rewards import RewardScores
from videoreasoner.training.grpo.rollout_log import RolloutRecord
from videoreasoner.training.grpo.rollouts import Rollout


@dataclass(eq=False)
class ScoredRollouts:
    """The M completions of one example, and what the rewards say about them.

    Attributes:
        features: float[tokens, D], of the clip under the policy; None where the update encodes the clip again.
        rollouts, texts: the completions, and what they say.
        scores: their rewards.
        advantages: float32[M], within each task; see `losses.group_advantages`.
        is_counted: bool[M], False for a completion that was cut off and is masked.
        is_learned: bool[M], False for a completion that is left out of reference and update: masked, or in a group of
            equal rewards whose divergence is left out, too.
    """

    example: Example
    features: Tensor | None
    rollouts: list[Rollout]
    texts: list[str]
    scores: RewardScores
    advantages: Tensor = field(default_factory=lambda: torch.zeros(0))
    is_counted: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.bool))
    is_learned: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.bool))

    @cached_property
    def totals(self) -> Tensor:
        """float64[M], the weighted sum of rewards of each completion."""
        return torch.tensor(self.scores.totals, dtype=torch.float64)

    @cached_property
    def groups(self) -> Tensor:
        """int64[M], the number of each completion's group: its task."""
        tasks = list(self.example.prompt.prefixes)
        return torch.tensor([tasks.index(rollout.task) for rollout in self.rollouts])

    @cached_property
    def lengths(self) -> Tensor:
        """int64[M], tokens of each completion."""
        return torch.tensor([len(rollout.tokens) for rollout in self.rollouts])

    @cached_property
    def is_finished(self) -> Tensor:
        """bool[M], False where a completion was cut off at the limit."""
        return torch.tensor([rollout.finished for rollout in self.rollouts])

    @cached_property
    def is_parsed(self) -> Tensor:
        """float32[M], 1 where a completion can be read as what its task asks for."""
        example = self.example
        return torch.tensor(
            [
                float(score_completion(example.row, rollout.task, text, example.duration_s).is_parsed)
                for rollout, text in zip(self.rollouts, self.texts, strict=True)
            ]
        )

    @property
    def learned(self) -> list[int]:
        """Numbers of the completions that are learned from."""
        return [int(number) for number in self.is_learned.nonzero()[:, 0]]

    def learned_completions(self) -> dict[Task, list[tuple[int, ...]]]:
        """Token ids of the completions that are learned from, by task, in their order."""
        by_task: dict[Task, list[tuple[int, ...]]] = {}
        for rollout in (self.rollouts[number] for number in self.learned):
            by_task.setdefault(rollout.task, []).append(rollout.tokens)
        return by_task

    def records(self) -> list[RolloutRecord]:
        """One record for each completion, for tables and logs."""
        scores = self.scores
        return [
            RolloutRecord(
                row=self.example.row.id,
                task=rollout.task.value,
                question=self.example.row.question,
                completion=self.texts[i],
                tokens=len(rollout.tokens),
                finished=rollout.finished,
                reward=scores.totals[i],
                rewards={name: values[i] for name, values in scores.each.items()},
                breakdown=scores.breakdowns[i],
                advantage=float(self.advantages[i]),
            )
            for i, rollout in enumerate(self.rollouts)
        ]
