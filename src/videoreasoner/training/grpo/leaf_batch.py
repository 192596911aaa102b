"""Completions as leaves of packed trees, and their log-probabilities from one ordinary forward pass.

The update and the reference see the same trees that the rollout decoded on: trunk, question, task prefixes, and every
completion as a leaf. `shared_prompt=False` lays each completion out as a row of its own instead, which is what other
trainers do; loss and gradients are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_outputs import BaseModelOutputWithPooling

from videoreasoner.models.prompt_tree import PackedTree, PromptTree, collate
from videoreasoner.training.data.queries import Query
from videoreasoner.training.grpo.rollouts import Rollout

# Of float32 logits: some 900 tokens of a published model.
_LOGIT_BYTES = 2**29


@dataclass(frozen=True, eq=False)
class LeafBatch:
    """Some completions of some queries, as arguments of a forward pass.

    Attributes:
        inputs: what `collate` returns, and `logits_to_keep`: int64[K], positions whose logits are needed by any row.
        clips: for each row, the number of the query whose clip stands in it.
        rows, kept, labels: int64[N]: for each token of each completion, in order, its row, which of the K kept logits
            predicts it, and its id.
        completion: int64[N], which of the completions the token belongs to.
        lengths: int64[M], tokens of each completion.
    """

    inputs: dict[str, Tensor]
    clips: list[int]
    rows: Tensor
    kept: Tensor
    labels: Tensor
    completion: Tensor
    lengths: Tensor


def leaf_batch(
    queries: Sequence[Query], rollouts: Sequence[Sequence[Rollout]], pad_token_id: int, shared_prompt: bool = True
) -> LeafBatch:
    """Lay out the completions: one row a query, or one row a completion.

    Args:
        rollouts: for each query, its completions to learn from; at least one.
    """
    packed: list[PackedTree] = []
    clips: list[int] = []
    rows: list[Tensor] = []
    predictors: list[Tensor] = []
    labels: list[Tensor] = []
    for number, (query, completions) in enumerate(zip(queries, rollouts, strict=True)):
        groups = [list(completions)] if shared_prompt else [[completion] for completion in completions]
        for group in groups:
            tree = PromptTree(query.trunk)
            asked = tree.add(query.question)
            tasks = dict.fromkeys(completion.task for completion in group)
            branches = {task: tree.add(query.prefixes[task], asked) for task in tasks}
            nodes = [tree.add(completion.tokens, branches[completion.task]) for completion in group]
            row = tree.pack()
            for node, completion in zip(nodes, group, strict=True):
                rows.append(torch.full((len(completion.tokens),), len(packed)))
                predictors.append(row.predictors(node))
                labels.append(torch.tensor(completion.tokens))
            packed.append(row)
            clips.append(number)
    keep, kept = torch.cat(predictors).unique(return_inverse=True)
    lengths = torch.tensor([len(tokens) for tokens in labels])
    return LeafBatch(
        {**collate(packed, pad_token_id), "logits_to_keep": keep},
        clips,
        torch.cat(rows),
        kept,
        torch.cat(labels),
        torch.arange(len(lengths)).repeat_interleave(lengths),
        lengths,
    )


def clip_inputs(queries: Sequence[Query], clips: Sequence[int], features: Sequence[Tensor] | None) -> dict[str, Any]:
    """What a forward pass gets of the clips: their pixels, or features that were computed before.

    With features, nothing of the vision tower is computed a second time; it learns from them if they have a graph.
    """
    if features is not None:
        encoded = BaseModelOutputWithPooling(pooler_output=[features[number] for number in clips])
        return {"mm_encoder_outputs": {"video": encoded}}
    return {
        "pixel_values_videos": torch.cat([queries[number].patches.pixel_values for number in clips]),
        "video_grid_thw": torch.tensor([queries[number].patches.grid for number in clips]),
    }


def completion_log_probs(
    model: Any,
    plain: Any,
    batch: LeafBatch,
    clips: dict[str, Any],
    temperature: float,
    banned_ids: Sequence[int],
) -> Tensor:
    """float32[N]: log-probability of each token of each completion, with a graph unless that is switched off.

    Args:
        model: the policy or the reference, wrapped for distributed training or not.
        plain: the transformers model inside of it.
        clips: what `clip_inputs` gave.
        temperature, banned_ids: as they were in sampling; see `rollouts.py`.
    """
    device = plain.lm_head.weight.device
    inputs = {name: tensor.to(device) for name, tensor in batch.inputs.items()}
    seen = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in clips.items()}
    head = plain.lm_head
    # In the place of the head, and not behind the model: data parallelism has to see all that the loss comes from.
    plain.lm_head = _LogProbHead(head, batch, temperature, banned_ids)
    try:
        log_probs: Tensor = model(**inputs, **seen, use_cache=False).logits
    finally:
        plain.lm_head = head
    return log_probs


class _LogProbHead(nn.Module):
    """Turns hidden states into the log-probabilities of a batch's tokens.

    Logits over a large vocabulary would be most of a step's memory: 16 completions of 768 tokens over 152,000 ids are
    7.5 GB in float32, and their log-softmax and gradients as much again. So they are computed for `_LOGIT_BYTES` at a
    time, and once more in the backward pass.
    """

    def __init__(self, head: Any, batch: LeafBatch, temperature: float, banned_ids: Sequence[int]) -> None:
        super().__init__()
        self.head, self.batch, self.temperature = head, batch, temperature
        self.banned = torch.tensor(sorted(banned_ids), dtype=torch.long, device=head.weight.device)

    def forward(self, hidden: Tensor) -> Tensor:
        """float[rows, K, D] hidden states of the kept positions -> float32[N]."""
        batch, device = self.batch, hidden.device
        parts = hidden[batch.rows.to(device), batch.kept.to(device)].split(tokens_at_once(len(self.head.weight)))
        labels = batch.labels.to(device).split(len(parts[0]))
        if len(parts) == 1:
            return self._log_probs(parts[0], labels[0])
        again = [checkpoint(self._log_probs, *part, use_reentrant=False) for part in zip(parts, labels, strict=True)]
        return torch.cat(again)

    def _log_probs(self, hidden: Tensor, labels: Tensor) -> Tensor:
        logits = self.head(hidden).float() / self.temperature
        log_probs = logits.index_fill(1, self.banned, -torch.inf).log_softmax(-1)
        return log_probs.gather(1, labels[:, None])[:, 0]


def tokens_at_once(vocabulary: int) -> int:
    """Of how many tokens the logits are held at a time."""
    return max(1, _LOGIT_BYTES // (4 * vocabulary))
