"""The cold start: a base model learns the task formats from about 3,000 rows (paper, "Multi-task Cold-start SFT").

One row is one prompt tree: trunk (system text, clip), question, and behind it one node a task that the row supports.
One forward pass gives the logits at the tokens that predict a target, and nowhere else; the loss is the negative
log-likelihood of task prefix, target text and end token.

    loss = sum over the step's target tokens of -log p(token) / number of the step's target tokens

The mean is taken over tokens of the whole step, on all devices, as transformers does (`num_items_in_batch`). The
published code takes the mean within a row first; there is one row a device there, so the two differ only in that short
targets weigh more.

Differences from the published code: a row is taught every task that it has a field for, where there a row belongs to
one task; the end of the turn is trained; a video that cannot be decoded is left out and counted, not replaced.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from videoreasoner.training.data.dataset import TASKS
from videoreasoner.training.recipe import ColdStartRecipe
from videoreasoner.training.runtime.setup import carry_out, prepare, progress
from videoreasoner.training.runtime.trainer import TreeTrainer

_MODEL_INPUTS = (
    "input_ids", "position_ids", "attention_mask", "mm_token_type_ids", "pixel_values_videos", "video_grid_thw",
)  # fmt: skip


def target_nats(model: Any, batch: dict[str, Any]) -> Tensor:
    """float32[N]: -log p of each target token of a batch of trees, from one forward pass.

    Args:
        model: a transformers Qwen-VL model for conditional generation, or what wraps it.
        batch: see `Collator`.
    """
    # Logits are the widest tensor of all: only where some tree of the batch predicts a target.
    columns, place = torch.unique(batch["predictors"], return_inverse=True)
    inputs = {name: batch[name] for name in _MODEL_INPUTS}
    logits = model(**inputs, logits_to_keep=columns, use_cache=False).logits
    predicted = logits[batch["rows"], place].float()
    return functional.cross_entropy(predicted, batch["labels"], reduction="none")


class ColdStartTrainer(TreeTrainer):
    """Supervised training on the targets of every task."""

    def batch_loss(self, model: Any, batch: dict[str, Any], total: Tensor) -> Tensor:
        nats = target_nats(model, batch)
        for number, task in enumerate(TASKS):
            of_task = nats.detach()[batch["tasks"] == number]
            if len(of_task):
                self.notes.sums[f"loss/{task}"] += of_task.sum().item()
                self.notes.sums[f"loss/{task}/count"] += len(of_task)
        return nats.sum() / total


def train_cold_start(recipe: ColdStartRecipe, overwrite: bool = False) -> Path:
    """Run a recipe, from where an earlier start of the same run stopped.

    Returns:
        The output folder, which then holds the trained model.

    Raises:
        VideoReasonerError: the recipe cannot be run here, or the run cannot go on; the message says why.
    """
    run = prepare(recipe, overwrite)
    return carry_out(ColdStartTrainer(run, progress(run)))
