"""Making the tiny checkpoints: a real Qwen2-VL, small enough to train from nothing on two CPU cores.

A plain supervised loop over lessons; `tiny.py` says which lessons, in what order. Batches are made by a worker process,
and a run that was killed goes on from its last checkpoint.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from experiments.tiny.lessons import LessonBatch, LessonKind, LessonSettings, lesson_batch
from videoreasoner.errors import CheckpointError
from videoreasoner.models.prompt_encoder import PromptEncoder
from videoreasoner.utils.processes import end_with_parent

RESUME_FILE = "resume.pt"
SAVE_EVERY = 200


class Lessons(Dataset[LessonBatch]):
    """Batch number n of a seed, made on demand and always the same."""

    def __init__(
        self,
        encoder: PromptEncoder,
        settings: LessonSettings,
        kind: LessonKind,
        batch_size: int,
        seed: int,
        first: int,
        steps: int,
    ) -> None:
        self.make: Callable[[int], LessonBatch] = lambda number: lesson_batch(
            encoder, settings, kind, batch_size, seed, number
        )
        self.first, self.steps = first, steps

    def __len__(self) -> int:
        return self.steps - self.first

    def __getitem__(self, index: int) -> LessonBatch:
        end_with_parent()
        return self.make(self.first + index)


def target_logits(model: Any, batch: LessonBatch) -> Tensor:
    """float32[N, V]: logits for every target token of a batch of trees, from one forward pass."""
    hidden = model.model(**batch.inputs, use_cache=False).last_hidden_state
    return model.lm_head(hidden[batch.rows, batch.predictors]).float()


def train(
    model: Any,
    encoder: PromptEncoder,
    settings: LessonSettings,
    kind: LessonKind,
    out: Path,
    *,
    steps: int,
    batch_size: int = 32,
    learning_rate: float = 5e-4,
    warmup: int = 50,
    decay_over: int | None = None,
    train_vision: bool = True,
    seed: int = 0,
    workers: int = 1,
    report: Callable[[str], None] = print,
) -> None:
    """Train in place; every `SAVE_EVERY` steps a line of figures and a resume point in `out`.

    The loss is the negative log-likelihood of a whole target, averaged over targets: a two-decimal interval carries
    more bits than a colour and weighs accordingly. The report gives it in nats, for each kind of target.

    Args:
        decay_over: length of the cosine in steps, if the stage is to end before it has decayed to nothing.
        train_vision: whether the vision tower learns too; frozen, a step costs a third less.

    Raises:
        CheckpointError: the loss is not finite.
    """
    out.mkdir(parents=True, exist_ok=True)
    model.model.visual.requires_grad_(train_vision)
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=learning_rate, weight_decay=0.01, betas=(0.9, 0.98))
    decay = decay_over or steps
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(1.0, (step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * step / decay)),
    )
    first = _resume(model, optimizer, schedule, out)
    data = Lessons(encoder, settings, kind, batch_size, seed, first, steps)
    loader = DataLoader(data, batch_size=None, num_workers=workers, prefetch_factor=4 if workers else None)
    model.train()
    seen: dict[str, list[float]] = defaultdict(list)
    started = time.monotonic()
    for step, batch in enumerate(loader, first + 1):
        logits = target_logits(model, batch)
        nats = functional.cross_entropy(logits, batch.labels, reduction="none")
        loss = nats.sum() / len(batch.kinds)
        if not torch.isfinite(loss):
            raise CheckpointError(f"step {step}: the loss is {loss.item()}; the last good state is in {out}")
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
        schedule.step()
        _add_up(seen, batch, nats.detach())
        if step % SAVE_EVERY == 0 or step == steps:
            rate = (time.monotonic() - started) / (step - first)
            means = ", ".join(f"{kind} {sum(v) / len(v):.2f}" for kind, v in sorted(seen.items()))
            report(
                f"step {step}/{steps}  loss {loss.item():.3f}  {rate:.2f} s/step  "
                f"{(steps - step) * rate / 60:.0f} min left  nats: {means}"
            )
            seen.clear()
            state = {
                "step": step,
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "schedule": schedule.state_dict(),
            }
            partial = out / f"{RESUME_FILE}.partial"
            torch.save(state, partial)
            partial.replace(out / RESUME_FILE)
    model.requires_grad_(True).eval()


def _resume(model: Any, optimizer: Any, schedule: Any, out: Path) -> int:
    path = out / RESUME_FILE
    if not path.is_file():
        return 0
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    schedule.load_state_dict(state["schedule"])
    return int(state["step"])


def _add_up(seen: dict[str, list[float]], batch: LessonBatch, nats: Tensor) -> None:
    totals = torch.zeros(len(batch.kinds)).index_add_(0, batch.leaf, nats)
    for kind, total in zip(batch.kinds, totals.tolist(), strict=True):
        seen[kind].append(total)
