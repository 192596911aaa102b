"""The cold start: a base model learns the task formats from about 3,000 rows (paper, "Multi-task Cold-start SFT").

One row is one prompt tree: system text, clip and question, and behind them one completion for each task that the row
supports. A completion is task prefix, target text and end token. One forward pass gives their log-probabilities:

    loss = sum over the step's completion tokens of -log p(token) / number of the step's completion tokens

The mean is taken over tokens of the whole step, on all devices, as transformers does (`num_items_in_batch`). The
published code takes the mean within a row first. It has one row on a device, so the two differ only in the weight of
short targets.

Differences from the published code: a row trains every task that it has a field for (there, each row belongs to one
task); the end of the turn is trained; a video that cannot be decoded is left out and counted, not replaced.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from videoreasoner.models.tree_batch import TreeBatch, token_log_probs
from videoreasoner.tasks import Task
from videoreasoner.training.data.dataset import ExampleBatch
from videoreasoner.training.data.examples import Example
from videoreasoner.training.recipe import ColdStartRecipe
from videoreasoner.training.runtime.setup import prepare, train
from videoreasoner.training.runtime.trainer import LossFunction, TreeTrainer


class ColdStartTrainer(TreeTrainer):
    """Supervised training on the targets of every task."""

    def step_losses(self, batches: Sequence[ExampleBatch]) -> list[LossFunction | None]:
        examples = [batch.examples for batch in batches]
        [total] = self.sum_over_processes(sum(len(t) for part in examples for e in part for t in e.targets.values()))
        if not total:
            return [None] * len(batches)
        if self.needs_dummy:
            examples = [part or [self.run.dataset.maker.dummy()] for part in examples]
        return [partial(self.loss, part, total) if part else None for part in examples]

    def loss(self, examples: Sequence[Example], total: float, model: Any) -> Tensor:
        """The share of some examples in the step's loss.

        Args:
            total: completion tokens of the whole step.
        """
        batch = target_batch(examples, self.run.checkpoint.encoder.pad_id, self.run.recipe.shared_prompt)
        clips = batch.clip_inputs([example.patches for example in examples])
        negative_log_likelihood = -token_log_probs(
            model, batch, clips, in_parts=not self.has_split_weights, device=self.args.device
        )
        self._note(examples, batch, negative_log_likelihood.detach())
        return negative_log_likelihood.sum() / total

    def _note(self, examples: Sequence[Example], batch: TreeBatch, negative_log_likelihood: Tensor) -> None:
        names = list(Task)
        numbers = torch.tensor(
            [names.index(task) for example in examples for task in example.targets], dtype=torch.long
        )
        of_token = numbers[batch.completion].to(negative_log_likelihood.device)
        for number, task in enumerate(names):
            self.metrics.add(f"loss/{task}", negative_log_likelihood[of_token == number])


def target_batch(examples: Sequence[Example], pad_token_id: int, shared_prompt: bool = True) -> TreeBatch:
    """The targets of some examples as completions: example after example, task after task."""
    completions = [{task: [tokens] for task, tokens in example.targets.items()} for example in examples]
    return TreeBatch.from_prompts([e.prompt for e in examples], completions, pad_token_id, shared_prompt)


def prepare_cold_start(recipe: ColdStartRecipe, overwrite: bool = False) -> ColdStartTrainer:
    """A trainer for a recipe, ready to train.

    Raises:
        VideoReasonerError: the recipe cannot be run here; the message says why.
    """
    return ColdStartTrainer(prepare(recipe, overwrite, recipe.max_target_length))


def train_cold_start(recipe: ColdStartRecipe, overwrite: bool = False) -> Path:
    """Run a recipe, from where an earlier start of the same run stopped.

    Returns:
        The output folder, which then holds the trained model.

    Raises:
        VideoReasonerError: the recipe cannot be run here, or the run cannot continue; the message says why.
    """
    return train(prepare_cold_start(recipe, overwrite))
