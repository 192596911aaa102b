"""The training loop of the tiny model. It resumes from its last saved state."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from experiments.tiny.examples import TinyBatch, make_batch
from experiments.tiny.stages import Stage
from videoreasoner.errors import CheckpointError
from videoreasoner.models.prompt_encoder import PromptEncoder
from videoreasoner.models.tree_batch import token_log_probs
from videoreasoner.utils.processes import end_with_parent

STATE_FILE = "state.pt"
SAVE_EVERY = 200
_WARMUP = 50


class _Batches(Dataset[TinyBatch]):
    """The batches of a stage from number `first` on."""

    def __init__(self, encoder: PromptEncoder, stage: Stage, first: int) -> None:
        self.encoder, self.stage, self.first = encoder, stage, first

    def __len__(self) -> int:
        return self.stage.steps - self.first

    def __getitem__(self, index: int) -> TinyBatch:
        end_with_parent()
        return make_batch(self.encoder, self.stage, self.first + index)


def train(
    model: Any,
    encoder: PromptEncoder,
    stage: Stage,
    out: Path,
    workers: int = 1,
    report: Callable[[str], None] = print,
) -> list[float]:
    """Train a model in place; every `SAVE_EVERY` steps report a line and save the state in `out`.

    The loss is the negative log-likelihood of a whole target, averaged over targets. A long target, such as a
    span of two numbers, therefore weighs more than a colour.

    Args:
        workers: processes that make batches.

    Returns:
        The loss of each step since the start or the last saved state.

    Raises:
        CheckpointError: the loss is not finite.
    """
    out.mkdir(parents=True, exist_ok=True)
    model.model.visual.requires_grad_(stage.train_vision)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=stage.learning_rate, weight_decay=0.01, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, stage))
    stateful = {"model": model, "optimizer": optimizer, "schedule": schedule}
    first = 0
    if (out / STATE_FILE).is_file():
        state = torch.load(out / STATE_FILE, weights_only=True)
        first = int(state["step"])
        for name, owner in stateful.items():
            owner.load_state_dict(state[name])
    batches = _Batches(encoder, stage, first)
    loader = DataLoader(batches, batch_size=None, num_workers=workers, prefetch_factor=4 if workers else None)
    model.train()
    losses: list[float] = []
    by_kind: dict[str, list[float]] = defaultdict(list)
    started = time.monotonic()
    for step, batch in enumerate(loader, first + 1):
        log_probs = token_log_probs(model, batch.tree, batch.clips)
        loss = -log_probs.sum() / len(batch.kinds)
        if not torch.isfinite(loss):
            raise CheckpointError(f"step {step}: the loss is {loss.item()}; {out} holds the last good state")
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        sums = torch.zeros(len(batch.kinds)).index_add_(0, batch.tree.completion, -log_probs.detach())
        for kind, value in zip(batch.kinds, sums.tolist(), strict=True):
            by_kind[kind].append(value)
        if step % SAVE_EVERY == 0 or step == stage.steps:
            rate = (time.monotonic() - started) / (step - first)
            means = ", ".join(f"{kind} {sum(v) / len(v):.2f}" for kind, v in sorted(by_kind.items()))
            left = f"{rate:.2f} s/step  {(stage.steps - step) * rate / 60:.0f} min left"
            report(f"step {step}/{stage.steps}  loss {losses[-1]:.3f}  {left}  negative log-likelihood: {means}")
            by_kind.clear()
            partial = out / f"{STATE_FILE}.partial"
            torch.save({"step": step, **{name: owner.state_dict() for name, owner in stateful.items()}}, partial)
            partial.replace(out / STATE_FILE)
    model.requires_grad_(True).eval()
    return losses


def _rate(step: int, stage: Stage) -> float:
    cosine = 0.5 * (1 + math.cos(math.pi * step / (stage.decay_over or stage.steps)))
    return min(1.0, (step + 1) / _WARMUP) * cosine
