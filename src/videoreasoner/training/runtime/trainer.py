"""The trainer that every kind of training here is built on: transformers' own, with our data, guards and files.

Loops, schedules, optimizers, trackers, mixed precision, gradient checkpointing, DDP, FSDP and DeepSpeed are
transformers' and accelerate's. Added here:

- batches are trees with notes; what was skipped is agreed between processes, written down, and stops the run when it is
  too much;
- a loss or gradient that is not finite stops the run before the optimizer step, naming the rows (DeepSpeed tells the
  gradient's norm behind its step; there the run stops before anything is saved);
- checkpoints appear whole or not at all, whenever the process dies;
- one loss over the global batch, however it is cut into devices and micro-batches (see `batch_loss`).
"""

from __future__ import annotations

import shutil
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import DistributedType, gather_object
from torch import Tensor
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from videoreasoner.errors import TrainingError
from videoreasoner.models.checkpoint import Checkpoint, load_checkpoint, save_companions
from videoreasoner.settings import Settings
from videoreasoner.training.data.dataset import Collator, Notes
from videoreasoner.training.data.sources import Rows, Skipped
from videoreasoner.training.recipe import Recipe
from videoreasoner.training.runtime.folder import RunFolder
from videoreasoner.training.runtime.metrics_file import peak_memory_gb
from videoreasoner.training.runtime.model_card import model_card


@dataclass(eq=False)
class Run:
    """All that a run is made of; `prepare` in start.py makes it.

    Attributes:
        args: transformers' settings.
        folder: the output folder.
        identity: what is written into it about the run.
        overwrite: whether what another run left there is removed.
        checkpoint: the model as it was loaded, with tokenizer, settings and geometry.
        model: what is trained: the checkpoint's model, or adapters around it.
        sources: the rows.
        held_out: rows to sample outputs for.
        dataset: of positions in the row stream.
        skipped: rows set aside so far.
        resume_from: the checkpoint folder to go on from.
        step_rows: rows of the stream that an optimizer step goes through; rows that serve several count in parts.
        figures: what callbacks found out since the last logged step.
    """

    recipe: Recipe
    args: TrainingArguments
    folder: RunFolder
    identity: dict[str, Any]
    overwrite: bool
    checkpoint: Checkpoint
    model: Any
    sources: list[Rows]
    held_out: list[Rows]
    dataset: Any
    collator: Collator
    skipped: list[Skipped]
    resume_from: Path | None
    step_rows: float
    figures: dict[str, float] = field(default_factory=dict)

    @property
    def settings(self) -> Settings:
        """What inference will use, with a record of how the checkpoint was trained."""
        record = self.recipe.model_dump(mode="json", exclude_defaults=True, exclude={"output_dir", "video_root"})
        before = {"base": self.recipe.model_name_or_path, "before": self.checkpoint.settings.training}
        return self.checkpoint.settings.changed(training={"recipe": record, **before})


@dataclass
class StepNotes:
    """What happened since the last logged step, in this process.

    Attributes:
        sums: named sums over tokens or rows; logged as means where there is a count of the same name.
        seconds: time spent by kind.
        rows: source and id of the rows of the current step.
    """

    sums: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    rows: list[tuple[str, str]] = field(default_factory=list)


class TreeTrainer(Trainer):
    """Trains on batches of trees. A kind of training says in `count` and `batch_loss` what its loss is."""

    # `batch_loss` divides by the count of the whole step, so transformers must not divide again.
    loss_is_scaled_for_ga = True

    def __init__(self, run: Run, callbacks: list[TrainerCallback] | None = None) -> None:
        self.run = run
        self.notes = StepNotes()
        self._skipped = {(s.source, s.row): s for s in run.skipped}
        super().__init__(
            model=run.model,
            args=run.args,
            train_dataset=run.dataset,
            data_collator=run.collator,
            callbacks=callbacks,
        )
        self.remove_callback(PrinterCallback)

    def count(self, batch: dict[str, Any]) -> float:
        """What the loss of a step is divided by, for one batch: the terms in its sum."""
        return float(len(batch["labels"]))

    def batch_loss(self, model: Any, batch: dict[str, Any], total: Tensor) -> Tensor:
        """The batch's share of the step's loss: its sum divided by `total`, the count of the step over all processes.

        Shares add up to the same loss and the same gradients however a step is cut. That is transformers'
        `num_items_in_batch`; a mean of means would give short targets more weight on one device than on another.
        """
        raise NotImplementedError

    def get_batch_samples(
        self, epoch_iterator: Iterator[dict[str, Any]], num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Any]], Tensor]:
        """The batches of one step, and the count of the whole step."""
        started = time.perf_counter()
        batches = [batch for _, batch in zip(range(num_batches), epoch_iterator, strict=False)]
        self.notes.seconds["wait"] += time.perf_counter() - started
        notes = [batch["notes"] for batch in batches]
        self.notes.rows = [row for note in notes for row in note.rows]
        self._add(notes)
        skipped = [item for note in notes for item in note.skipped]
        mended = [row for row in self.notes.rows if row in self._skipped]
        counts = torch.tensor([sum(map(self.count, batches)), len(skipped) + len(mended)], dtype=torch.float64)
        # In float32 on the way, because not every backend reduces float64: exact up to 16 million tokens a step.
        totals = self.accelerator.reduce(counts.float().to(device), reduction="sum")
        if totals[1] > 0:
            self._set_aside(skipped, mended)
        return batches, totals[0]

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Tensor:
        started = time.perf_counter()
        total = torch.ones(()) if num_items_in_batch is None else num_items_in_batch
        loss = self.batch_loss(model, inputs, total.clamp(min=1))
        if not torch.isfinite(loss.detach()):
            self._stop(f"the loss is {loss.item()}", inputs["notes"].rows)
        self.notes.seconds["forward"] += time.perf_counter() - started
        # Data parallelism averages gradients over processes, and a step is a sum over them.
        return loss * self.accelerator.num_processes

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        started = time.perf_counter()
        loss = super().training_step(model, inputs, num_items_in_batch)
        self.notes.seconds["update"] += time.perf_counter() - started
        return loss

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        # Here, because it is the last call before the optimizer step that knows the norm.
        norm = super()._get_grad_norm(model, grad_norm)
        if norm is not None and not torch.isfinite(torch.as_tensor(float(norm))):
            is_late = self.accelerator.distributed_type is DistributedType.DEEPSPEED
            self._stop(f"the gradient's norm is {float(norm)}", self.notes.rows, is_late)
        return norm

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add our figures, of all processes, to those that callbacks and trackers get."""
        if "loss" in logs:
            logs.update(self._figures())
        # The row stream has no epochs that transformers could see, so it would count the whole run as one.
        self.state.epoch = self._epoch()
        super().log(logs, start_time)

    def _figures(self) -> dict[str, float]:
        gathered = gather_object([(self.notes.sums, self.notes.seconds)])
        sums: defaultdict[str, float] = defaultdict(float)
        for other, _ in gathered:
            for name, value in other.items():
                sums[name] += value
        seconds = gathered[0][1]
        figures = {name: sums[name] / sums[f"{name}/count"] for name in sums if f"{name}/count" in sums}
        figures |= {name: sums[name] for name in ("rows", "tokens", "events_clipped", "rows_reduced")}
        figures |= {f"time/{name}": value for name, value in seconds.items()}
        figures |= {"rows_skipped": len(self._skipped), "memory/peak_gb": peak_memory_gb(), **self.run.figures}
        self.notes.sums.clear()
        self.notes.seconds.clear()
        self.run.figures.clear()
        return figures

    def _epoch(self) -> float:
        return round(self.state.global_step * self.run.step_rows / self.run.dataset.order.epoch_rows, 4)

    def _add(self, notes: list[Notes]) -> None:
        for note in notes:
            self.notes.sums["rows"] += len(note.rows)
            self.notes.sums["tokens"] += note.tokens
            self.notes.sums["events_clipped"] += note.clipped
            self.notes.sums["rows_reduced"] += note.reduced
            self.notes.seconds["decode"] += note.decode_s

    def _set_aside(self, skipped: list[Skipped], mended: Sequence[tuple[str, str]] = ()) -> None:
        """Write down what any process could not use, without what it can use by now; stop when it is too much."""
        step = self.state.global_step + 1
        for items, rows in gather_object([(skipped, mended)]):
            for row in rows:
                self._skipped.pop(row, None)
            for item in items:
                self._skipped.setdefault((item.source, item.row), replace(item, step=step))
        if self.args.should_save:
            self.run.folder.write_skipped(list(self._skipped.values()))
        check_skipped(list(self._skipped.values()), self.run.sources, self.run.recipe.max_skipped_fraction)

    def _stop(self, what: str, rows: list[tuple[str, str]], is_late: bool = False) -> None:
        named = ", ".join(f"{row} of {source}" for source, row in rows[:8]) or "none"
        last = self.run.folder.last_checkpoint()
        good = f"the last good checkpoint is {last}" if last else "no checkpoint was written yet"
        weights = "DeepSpeed had taken the step by then" if is_late else "the weights were left as they were"
        raise TrainingError(
            f"step {self.state.global_step + 1}: {what}, and {weights}; rows of this step: "
            f"{named}; {good}. Look at these rows, or lower learning_rate"
        )

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        # The order is the data set's own; anything else would shuffle it a second time.
        return torch.utils.data.SequentialSampler(self.train_dataset)

    def _get_output_dir(self, trial: Any) -> str:
        return str(self.run.folder.staging)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if self.run.recipe.lora or self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        # transformers 5 saves Qwen-VL weights under their published names, and its trainer looks for those of the
        # modules, finds none of them, warns, and goes on with the weights that it had.
        saved = load_checkpoint(resume_from_checkpoint, device="cpu", dtype=self.model.dtype)
        self.model.load_state_dict(saved.model.state_dict())

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write a checkpoint beside the others, then give it its name."""
        folder, keep = self.run.folder, self.args.save_total_limit
        with folder.saving(f"step {self.state.global_step}: the checkpoint", self.args.should_save):
            if self.args.should_save:
                shutil.rmtree(folder.staging, ignore_errors=True)
                folder.staging.mkdir(parents=True)
            self.accelerator.wait_for_everyone()
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                folder.publish(folder.staging / f"checkpoint-{self.state.global_step}", keep)
        self.accelerator.wait_for_everyone()

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        model = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        model.save_pretrained(folder, state_dict=state_dict)
        self.save_beside(folder)

    def save_beside(self, folder: Path) -> None:
        """Write what a checkpoint holds beside its weights: tokenizer, processors, settings, model card."""
        run = self.run
        save_companions(folder, run.checkpoint.encoder.tokenizer, run.settings, run.checkpoint.patches)
        card = model_card(run.recipe, run.sources, list(self._skipped.values()), self.state.log_history)
        (folder / "README.md").write_text(card, encoding="utf-8")


def check_skipped(skipped: list[Skipped], sources: list[Rows], limit: float) -> None:
    """Stop when too many rows cannot be used.

    Raises:
        TrainingError: more than `limit` of all rows; the message says which sources, and the first reasons.
    """
    everything = sum(len(rows) + len(rows.skipped) for rows in sources)
    if len(skipped) <= limit * everything:
        return
    by_source = Counter(item.source for item in skipped)
    names = ", ".join(f"{count} of {source}" for source, count in by_source.most_common())
    first = "; ".join(f"{item.row}: {item.reason}" for item in skipped[:3])
    raise TrainingError(
        f"{len(skipped)} of {everything} rows cannot be used ({names}), more than max_skipped_fraction {limit:g}; "
        f"the first: {first}. Mend them, or raise the limit; what was found while training is in skipped.jsonl"
    )
