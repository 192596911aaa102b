"""A query after its rollout."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from videoreasoner.training.data.queries import Query
from videoreasoner.training.grpo.recorder import Record
from videoreasoner.training.grpo.rewards import Scores
from videoreasoner.training.grpo.rollouts import Rollout


@dataclass(frozen=True, eq=False)
class Explored:
    """One query after its rollout.

    Attributes:
        features: float[V, D], of its clip under the policy, fit for the update; None where that needs them anew.
        rollouts, texts: its M completions, and what they say.
        scores: what the rewards say about them.
        advantages: float32[M], within each task.
        learned: bool[M], False where nothing is to be learned: equal rewards, or cut off and masked.
        counted: bool[M], False where cut off and masked.
    """

    query: Query
    features: Tensor | None
    rollouts: list[Rollout]
    texts: list[str]
    scores: Scores
    advantages: Tensor
    learned: Tensor
    counted: Tensor

    @property
    def lengths(self) -> Tensor:
        """int64[M], tokens of each completion."""
        return torch.tensor([len(rollout.tokens) for rollout in self.rollouts])

    def records(self) -> list[Record]:
        """The rollouts as people read them."""
        scores = self.scores
        return [
            Record(
                row=self.query.row.id,
                task=rollout.task.value,
                question=self.query.row.question,
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
