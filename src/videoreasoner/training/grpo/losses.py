"""The objective of group-relative policy optimisation (GRPO) as functions of tensors, without a model.

Shapes: M completions, N tokens of all completions in a row. `completion` int64[N] says whose each token is.

    maximise  mean over completions, mean over tokens of
              min(ratio * A, clip(ratio, 1 - epsilon_low, 1 + epsilon_high) * A) - beta * KL
    ratio     pi(token) / pi_old(token): 1 at the first update on a batch
    A         (reward - mean) / (std + 1e-4) within the group: the completions of one task of one query
    KL        k3, an unbiased and never negative estimate against the reference model

Sources: GRPO, arXiv 2402.03300, equations 3 and 4; `epsilon_high` and the token mean "dapo", arXiv 2503.14476;
"dr_grpo" and advantages that are not scaled, arXiv 2503.20783; k3, http://joschu.net/blog/kl-approx.html.
The formulas are those of TRL 1.16 (`tests/training/grpo/test_losses.py` compares the numbers).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Normalisation = Literal["grpo", "dr_grpo", "dapo"]

STD_FLOOR = 1e-4
# The limit of the published trainer. Beyond it, exp() is so large that one token decides the step. TRL has no limit.
LOG_RATIO_LIMIT = 10.0


def same_rewards(rewards: Tensor, groups: Tensor) -> Tensor:
    """bool[M]: True for the completions of a flat group: its rewards are all equal, so it has no advantages.

    Args:
        rewards: float[M], NaN where no reward function had a say.
        groups: int64[M], the number of each completion's group.
    """
    same = torch.zeros(len(rewards), dtype=torch.bool)
    for members in _members(groups):
        known = rewards[members][~rewards[members].isnan()]
        same[members] = bool((known == known[:1]).all())
    return same


def group_advantages(rewards: Tensor, groups: Tensor, scale: bool = True) -> Tensor:
    """float32[M]: how much better each completion is than the others of its group.

    A group of equal rewards gets exact zeros, because rounding in the mean would otherwise become a gradient. A
    completion without a reward gets zero, too, and does not count in its group's mean.

    Args:
        rewards: float[M], NaN where no reward function had a say.
        groups: int64[M], the number of each completion's group.
        scale: divide by the group's standard deviation (unbiased, plus 1e-4); off: Dr. GRPO.
    """
    advantages = torch.zeros(len(rewards), dtype=torch.float64)
    flat = same_rewards(rewards, groups)
    for members in _members(groups):
        if flat[members[0]]:
            continue
        values = rewards[members].double()
        known = values[~values.isnan()]
        centred = values - known.mean()
        advantages[members] = centred / (known.std() + STD_FLOOR) if scale else centred
    return advantages.nan_to_num(0.0).float()


def clipped_objective(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, epsilon_low: float, epsilon_high: float
) -> Tensor:
    """float[N]: the clipped policy objective of each token, to be maximised. All arguments are float[N]."""
    ratio = torch.exp(log_probs - old_log_probs)
    clipped = ratio.clamp(1 - epsilon_low, 1 + epsilon_high)
    return torch.minimum(ratio * advantages, clipped * advantages)


def is_clipped(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, epsilon_low: float, epsilon_high: float
) -> Tensor:
    """bool[N]: where clipping takes the gradient away."""
    ratio = torch.exp(log_probs - old_log_probs)
    return ((ratio < 1 - epsilon_low) & (advantages < 0)) | ((ratio > 1 + epsilon_high) & (advantages > 0))


def k3(log_probs: Tensor, reference_log_probs: Tensor) -> Tensor:
    """float[N]: exp(d) - d - 1 with d = reference - policy, at most 10 either way; 0 where the two agree."""
    difference = (reference_log_probs - log_probs).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    return torch.exp(difference) - difference - 1


def token_weights(
    lengths: Tensor,
    counted: Tensor,
    normalisation: Normalisation,
    max_length: int,
    completions: int | None = None,
    tokens: int | None = None,
) -> Tensor:
    """float32[M]: the weight of each token of a completion, such that the loss is one weighted sum over all tokens.

    Micro-batches, processes and trees add up to the same loss, however a batch is cut, provided that the totals are
    those of the whole batch.

        grpo      1 / (length * completions): mean over a completion's tokens, then over completions
        dr_grpo   1 / (max_length * completions): a long completion's tokens weigh as much as a short one's
        dapo      1 / tokens: mean over the tokens of the batch

    Args:
        lengths: int64[M], tokens of each completion.
        counted: bool[M]; False (a truncated completion that is masked) gives weight 0. As in TRL it still counts as a
            completion, and its tokens do not count.
        max_length: the completion limit, for dr_grpo.
        completions, tokens: totals over the whole batch; by default those of the arguments.
    """
    completions = len(lengths) if completions is None else completions
    tokens = int(lengths[counted].sum()) if tokens is None else tokens
    ones = torch.ones(len(lengths), dtype=torch.float64)
    weights = {
        "grpo": ones / lengths.clamp(min=1) / max(completions, 1),
        "dr_grpo": ones / max_length / max(completions, 1),
        "dapo": ones / max(tokens, 1),
    }[normalisation]
    return (weights * counted).float()


def _members(groups: Tensor) -> list[Tensor]:
    """int64[G] indices of each group's completions."""
    return [(groups == group).nonzero()[:, 0] for group in groups.unique().tolist()]
