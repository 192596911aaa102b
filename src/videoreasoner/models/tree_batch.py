"""Prompt trees as one forward pass, and the log-probabilities of the completions in it.

One video with one question has many completions: one a task in the cold start, G a task in GRPO. `TreeBatch` lays out
prompts and `{task: completions}` so that each prompt is computed once. The cold start, the update and the reference of
GRPO, and the training of the tiny model all call `TreeBatch` and `token_log_probs`.

With `shared_prompt=False` every completion becomes a row of its own behind a repeated prompt, which is what other
trainers do. Loss and all gradients are the same to float rounding; tests and benchmarks compare the two layouts.

Shape suffixes: R rows of the batch, L tokens of the longest row, K kept positions, N tokens of all completions,
M completions, D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from accelerate.utils import extract_model_from_parallel
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_outputs import BaseModelOutputWithPooling

from videoreasoner.models.prompt_tree import PackedTree, Prompt, PromptTree, collate
from videoreasoner.tasks import Task
from videoreasoner.video.patches import Patches

# Most bytes of float32 logits at a time: about 900 tokens of a published model.
_LOGIT_BYTES = 2**29


@dataclass(frozen=True, eq=False)
class TreeBatch:
    """Completions behind their prompts, as arguments of one forward pass.

    Attributes:
        inputs: what `collate` returns, and `logits_to_keep` int64[K]: the positions that predict some completion.
        clips: for each of the R rows, the number of the prompt whose clip it holds.
        rows, kept, labels: int64[N]. For each token of each completion, in order: its row, which of the K kept
            positions predicts it, and its id.
        completion: int64[N], the number of the completion that the token belongs to.
        lengths: int64[M], tokens of each completion.
        tokens: number of tokens in all rows, without padding.
    """

    inputs: dict[str, Tensor]
    clips: tuple[int, ...]
    rows: Tensor
    kept: Tensor
    labels: Tensor
    completion: Tensor
    lengths: Tensor
    tokens: int

    @classmethod
    def from_prompts(
        cls,
        prompts: Sequence[Prompt],
        completions: Sequence[Mapping[Task, Sequence[Sequence[int]]]],
        pad_token_id: int,
        shared_prompt: bool = True,
    ) -> Self:
        """Lay out the completions of each prompt: one row a prompt, or one row a completion.

        Completions are numbered prompt after prompt, task after task. A prompt without completions keeps its row.

        Args:
            completions: for each prompt, token ids of the completions of each task. Where the prompt has no prefix
                for a task, the completion stands directly behind the question.
        """
        trees: list[PromptTree] = []
        targets: list[list[int]] = []
        clips: list[int] = []
        for number, (prompt, by_task) in enumerate(zip(prompts, completions, strict=True)):
            flat = [(task, tokens) for task, group in by_task.items() for tokens in group]
            for group in [flat] if shared_prompt or not flat else [[one] for one in flat]:
                tree = PromptTree(prompt.trunk)
                parents = tree.add_prompt(prompt, dict.fromkeys(task for task, _ in group))
                targets.append([tree.add(tokens, parents[task]) for task, tokens in group])
                trees.append(tree)
                clips.append(number)
        return cls.from_trees(trees, targets, pad_token_id, clips)

    @classmethod
    def from_trees(
        cls,
        trees: Sequence[PromptTree],
        targets: Sequence[Sequence[int]],
        pad_token_id: int,
        clips: Sequence[int] | None = None,
    ) -> Self:
        """Lay out trees of any form, one a row.

        Args:
            targets: for each tree, the nodes whose tokens are completions.
            clips: for each tree, the number of its clip; by default each tree has its own.
        """
        packed: list[PackedTree] = [tree.pack() for tree in trees]
        places = [
            (row, tree, node) for row, (tree, nodes) in enumerate(zip(packed, targets, strict=True)) for node in nodes
        ]
        lengths = torch.tensor([len(tree.tree.tokens[node]) for _, tree, node in places], dtype=torch.long)
        none = torch.zeros(0, dtype=torch.long)
        predictors = torch.cat([tree.predictors(node) for _, tree, node in places] or [none])
        keep, kept = predictors.unique(return_inverse=True)
        return cls(
            inputs={**collate(packed, pad_token_id), "logits_to_keep": keep},
            clips=tuple(range(len(packed)) if clips is None else clips),
            rows=torch.tensor([row for row, _, _ in places], dtype=torch.long).repeat_interleave(lengths),
            kept=kept,
            labels=torch.tensor([t for _, tree, node in places for t in tree.tree.tokens[node]], dtype=torch.long),
            completion=torch.arange(len(places)).repeat_interleave(lengths),
            lengths=lengths,
            tokens=sum(map(len, packed)),
        )

    def clip_inputs(self, patches: Sequence[Patches], features: Sequence[Tensor] | None = None) -> dict[str, Any]:
        """The model's arguments for the clips, one for each row.

        Args:
            patches: the clip of each prompt.
            features: float[tokens, D] for each prompt, when its clip has been encoded already. Then the vision tower
                is not run again; it learns from these features if they carry a graph.
        """
        if features is not None:
            # Declared as one tensor, though the models take and give a list with one for each clip.
            rows: Any = [features[number] for number in self.clips]
            encoded = BaseModelOutputWithPooling(pooler_output=rows)
            return {"mm_encoder_outputs": {"video": encoded}}
        return {
            "pixel_values_videos": torch.cat([patches[number].pixel_values for number in self.clips]),
            "video_grid_thw": torch.tensor([patches[number].grid for number in self.clips]),
        }

    def to(self, device: torch.device) -> Self:
        """The same batch on a device."""
        moved = {name: getattr(self, name).to(device) for name in ("rows", "kept", "labels", "completion", "lengths")}
        return replace(self, inputs={name: tensor.to(device) for name, tensor in self.inputs.items()}, **moved)


def token_log_probs(
    model: Any,
    batch: TreeBatch,
    clips: Mapping[str, Any],
    temperature: float = 1.0,
    banned_ids: Sequence[int] = (),
    in_parts: bool = True,
    device: torch.device | None = None,
) -> Tensor:
    """float32[N]: log-probability of each token of each completion, with a graph unless that is switched off.

    Args:
        model: a transformers Qwen-VL model for conditional generation, inside of adapters, DDP, DeepSpeed or FSDP or
            not.
        clips: what `TreeBatch.clip_inputs` returned.
        temperature: > 0; logits are divided by it.
        banned_ids: ids outside of the distribution.
        in_parts: compute the logits of a limited number of tokens at a time. Off where weights are split over processes
            (FSDP, ZeRO-3): each part gathers the head's weights, and processes may need different numbers of parts.
        device: where the forward pass runs; by default where the model's weights are.
    """
    plain = unwrapped(model)
    head = plain.lm_head
    # Not `head.weight.device`: where adapters train single tokens, reading the weight merges them into a whole matrix.
    device = plain.device if device is None else device
    batch = batch.to(device)
    moved = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in clips.items()}
    at_once = tokens_at_once(plain.config.get_text_config().vocab_size) if in_parts else max(1, len(batch.labels))
    # The log-probabilities take the place of the logits inside the forward pass, because data parallelism and FSDP
    # must see all outputs that the loss depends on.
    plain.lm_head = _LogProbHead(head, at_once, batch, temperature, banned_ids)
    try:
        log_probs: Tensor = model(**batch.inputs, **moved, use_cache=False).logits
    finally:
        plain.lm_head = head
    return log_probs


def unwrapped(model: Any) -> Any:
    """The transformers model itself, without what data parallelism or adapters put around it."""
    inner = extract_model_from_parallel(model, keep_torch_compile=False)
    return inner.get_base_model() if hasattr(inner, "get_base_model") else inner


def encode_clip(model: Any, patches: Patches) -> Tensor:
    """float[tokens, D]: features of a clip's visual tokens, with a graph unless that is switched off.

    Args:
        model: the transformers model itself.
    """
    weight = next(model.model.visual.parameters())
    encoded = model.model.get_video_features(
        patches.pixel_values.to(weight.device, weight.dtype),
        torch.tensor([patches.grid], device=weight.device),
        return_dict=True,
    ).pooler_output
    return torch.cat(list(encoded))


def tokens_at_once(vocabulary: int) -> int:
    """The number of tokens whose logits are held at a time."""
    return max(1, _LOGIT_BYTES // (4 * vocabulary))


class _LogProbHead(nn.Module):
    """Turns hidden states into the log-probabilities of a batch's completions.

    Logits over a large vocabulary would take most of a step's memory: 16 completions of 768 tokens over 152,000 ids
    are 7.5 GB in float32, and their log-softmax and gradients as much again. So they are computed for `at_once` tokens
    at a time, and once more in the backward pass.
    """

    def __init__(
        self, head: Any, at_once: int, batch: TreeBatch, temperature: float, banned_ids: Sequence[int]
    ) -> None:
        super().__init__()
        self.head, self.batch, self.temperature = head, batch, temperature
        self.tokens_at_once = at_once
        self.banned = torch.tensor(sorted(banned_ids), dtype=torch.long)

    def forward(self, hidden_RKD: Tensor) -> Tensor:
        """float[R, K, D] hidden states of the kept positions -> float32[N]."""
        device = hidden_RKD.device
        hidden_ND = hidden_RKD[self.batch.rows.to(device), self.batch.kept.to(device)]
        parts = hidden_ND.split(self.tokens_at_once)
        labels = self.batch.labels.to(device).split(self.tokens_at_once)
        if len(parts) == 1:
            return self._log_probs(parts[0], labels[0])
        return torch.cat(
            [checkpoint(self._log_probs, *part, use_reentrant=False) for part in zip(parts, labels, strict=True)]
        )

    def _log_probs(self, hidden_ND: Tensor, labels_N: Tensor) -> Tensor:
        logits_NV = self.head(hidden_ND).float() / self.temperature
        log_probs_NV: Tensor = logits_NV.index_fill(1, self.banned.to(logits_NV.device), -torch.inf).log_softmax(-1)
        return log_probs_NV.gather(1, labels_N[:, None])[:, 0]
