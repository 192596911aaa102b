"""The trainer that every kind of training is built on: transformers' own, with our data, checks and files.

Loops, schedules, optimizers, trackers, mixed precision, gradient checkpointing, DDP, FSDP and DeepSpeed are
transformers' and accelerate's. A kind of training implements one method, `TreeTrainer.step_losses`. The hooks below it
adapt it to transformers' loop and add:

- bookkeeping of rows that cannot be used: processes agree on them, they are written down, and too many stop the run;
- a stop on a loss or gradient that is not finite, before the optimizer step, with the rows named (DeepSpeed tells the
  gradient's norm after its step; there the run stops before anything is saved);
- checkpoints that are complete or missing, even if the process is killed;
- one loss over the global batch, however it is cut into devices and micro-batches.
"""

from __future__ import annotations

import contextlib
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import DistributedType, gather_object
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from transformers import PrinterCallback, Trainer, TrainingArguments

from videoreasoner.errors import TrainingError
from videoreasoner.models.checkpoint import Checkpoint, load_checkpoint, save_companions
from videoreasoner.models.gathering import HollowModel, gathered_weights
from videoreasoner.settings import Settings
from videoreasoner.training.data.dataset import ExampleBatch, RowDataset
from videoreasoner.training.data.sources import Rows, Skipped, check_skipped
from videoreasoner.training.recipe import Recipe
from videoreasoner.training.runtime.arguments import has_split_weights
from videoreasoner.training.runtime.folder import ResumePoint, RunFolder
from videoreasoner.training.runtime.metrics_file import peak_memory_gb
from videoreasoner.training.runtime.model_card import model_card
from videoreasoner.utils.stopwatch import Stopwatch, device_wait

LossFunction = Callable[[Any], Tensor]
"""The model, wrapped for distributed training -> a micro-batch's share of the step's loss, a scalar."""
# What the recipe decides in an optimizer's groups of parameters. Other entries may be state of the optimizer.
_OF_RECIPE = ("initial_lr", "weight_decay", "betas", "eps")


@dataclass(eq=False)
class TrainingRun:
    """All parts of a run; `prepare` in setup.py makes it.

    Attributes:
        args: transformers' settings.
        folder: the output folder.
        identity: what is written into it about the run.
        overwrite: whether what another run left there is removed.
        checkpoint: the model as it was loaded, with tokenizer, settings and geometry.
        model: what is trained: the checkpoint's model, or adapters around it.
        sources: the rows.
        held_out: rows to sample outputs for.
        dataset: the row stream.
        skipped: rows set aside so far.
        resume: where the run resumes.
        step_rows: rows of the stream for each optimizer step; a fraction where several steps share their rows.
        steps_per_rollout: optimizer steps that learn from the same rows; 1 except in GRPO with `num_iterations` > 1.
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
    dataset: RowDataset
    skipped: list[Skipped]
    resume: ResumePoint
    step_rows: float
    steps_per_rollout: int = 1

    @property
    def settings(self) -> Settings:
        """What inference will use, with a record of how the checkpoint was trained."""
        record = self.recipe.model_dump(mode="json", exclude_defaults=True, exclude={"output_dir", "video_root"})
        before = {"base": self.recipe.model_name_or_path, "before": self.checkpoint.settings.training}
        return self.checkpoint.settings.changed(training={"recipe": record, **before})


@dataclass
class StepMetrics:
    """What happened in this process since the last logged step.

    Attributes:
        sums: named sums over tokens, completions or rows. A name with a count is logged as a mean.
        counts: how many values are in a sum.
        latest: values that are logged as they are, such as those of held-out samples.
    """

    sums: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    counts: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    latest: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, values: Tensor | Sequence[float]) -> None:
        """Add values to a metric that is logged as their mean."""
        if len(values):
            self.sums[name] += float(torch.as_tensor(values, dtype=torch.float32).sum())
            self.counts[name] += len(values)


class TreeTrainer(Trainer):
    """Trains on examples laid out as prompt trees."""

    held_out_prefix = ""
    """Begins the names of the metrics of held-out samples, where training has metrics of the same names."""

    # transformers declares that it may be None.
    model: Any
    # Each loss function divides by the totals of the whole step, so transformers must not divide again.
    loss_is_scaled_for_ga = True

    def __init__(self, run: TrainingRun) -> None:
        self.run = run
        self.metrics = StepMetrics()
        self.stopwatch = Stopwatch(device_wait(run.args.device))
        self._skipped = {(s.source, s.row): s for s in run.skipped}
        self._step_rows: list[tuple[str, str]] = []
        self._micro_batches: list[dict[str, Any]] = []
        # transformers declares that a batch is a dictionary, but passes on any object.
        collate: Any = ExampleBatch.collate
        super().__init__(model=run.model, args=run.args, train_dataset=run.dataset, data_collator=collate)
        self.remove_callback(PrinterCallback)
        self.has_split_weights = has_split_weights(self.args)
        # Made now, because later the model is wrapped and its weights are split.
        self._hollow = HollowModel(self.model, self.args.device) if self.has_split_weights else None

    def step_losses(self, batches: Sequence[ExampleBatch]) -> list[LossFunction | None]:
        """One loss function for each micro-batch of the next optimizer step; None where there is nothing to learn.

        A loss function is called once for each optimizer step that learns from these batches
        (`TrainingRun.steps_per_rollout`). The shares of all micro-batches and processes add up to the loss of the
        step, so loss and gradients do not depend on how a step is cut. This corresponds to transformers'
        `num_items_in_batch`: a mean of means would give short completions more weight on one device than on another.

        With several processes, either all of them or none of them return a function for a micro-batch.
        """
        raise NotImplementedError

    def sum_over_processes(self, *values: float) -> list[float]:
        """The sums of some numbers over all processes; exact up to 16 million."""
        # In float32, because some backends cannot reduce float64.
        own = torch.tensor(values, dtype=torch.float32, device=self.args.device)
        return [float(value) for value in self.accelerator.reduce(own, reduction="sum").tolist()]

    @property
    def gathered_dtype(self) -> torch.dtype | None:
        """What split weights are gathered in: what the wrapped model computes in. None: as they are."""
        return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.accelerator.mixed_precision)

    @contextlib.contextmanager
    def whole_model(self) -> Iterator[Any]:
        """The model as it is by now, with whole weights, to decode with. Every process must enter it together.

        Where weights are split, it is a copy into which all of them are gathered, without a graph. With adapters, it is
        the model with them.
        """
        model = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        if self._hollow is None:
            yield model
            return
        with self._hollow.filled(gathered_weights(model, self.args.device, self.gathered_dtype)) as whole:
            yield whole

    @property
    def needs_dummy(self) -> bool:
        """Whether a micro-batch without anything to learn needs a dummy example, since other processes take part."""
        return self.accelerator.distributed_type is not DistributedType.NO

    # The hooks of transformers' loop, in the order in which it calls them.

    def get_batch_samples(
        self, epoch_iterator: Iterator[ExampleBatch], num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Any]], None]:
        """The micro-batches of one optimizer step, each with its loss function."""
        if self.state.global_step % self.run.steps_per_rollout == 0:
            with self.stopwatch.stage("wait"):
                batches = list(islice(epoch_iterator, num_batches))
            self._count(batches)
            losses = self.step_losses(batches)
            self._micro_batches = [
                {"loss": loss, "rows": batch.rows} for loss, batch in zip(losses, batches, strict=True)
            ]
        return self._micro_batches, None

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        if inputs["loss"] is None:
            return torch.zeros((), device=self.args.device)
        with self.stopwatch.stage("update"):
            return super().training_step(model, inputs, num_items_in_batch)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        with self.stopwatch.stage("forward"):
            loss: Tensor = inputs["loss"](model)
            if not torch.isfinite(loss.detach()):
                self._stop(f"the loss is {loss.item()}", inputs["rows"])
        # Data parallelism averages gradients over processes, and a step is a sum over them.
        return loss * self.accelerator.num_processes

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        if all(batch["loss"] is None for batch in self._micro_batches):
            # DeepSpeed would report the norm of the step before.
            return 0.0
        # transformers calls this last before the optimizer step.
        norm = super()._get_grad_norm(model, grad_norm)
        if norm is not None and not torch.isfinite(torch.as_tensor(float(norm))):
            is_late = self.accelerator.distributed_type is DistributedType.DEEPSPEED
            self._stop(f"the gradient's norm is {float(norm)}", self._step_rows, is_late)
        return norm

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add our metrics, of all processes, to those that callbacks and trackers get."""
        if "loss" in logs:
            logs.update(self.collect_metrics())
        # transformers cannot see the epochs of the row stream and would count the whole run as one.
        self.state.epoch = self._epoch()
        super().log(logs, start_time)

    def collect_metrics(self) -> dict[str, float]:
        """Means and sums over all processes since the last call."""
        metrics, seconds = self.metrics, dict(self.stopwatch.seconds)
        sums: defaultdict[str, float] = defaultdict(float)
        counts: defaultdict[str, int] = defaultdict(int)
        for other_sums, other_counts in gather_object([(metrics.sums, metrics.counts)]):
            for name, value in other_sums.items():
                sums[name] += value
            for name, count in other_counts.items():
                counts[name] += count
        collected = {name: sums[name] / count for name, count in counts.items()}
        collected |= {name: sums[name] for name in ("rows", "tokens", "events_limited", "rows_reduced")}
        collected |= {f"time/{name}": value for name, value in seconds.items()}
        collected |= {"rows_skipped": len(self._skipped), "memory/peak_gb": peak_memory_gb(), **metrics.latest}
        self.metrics = StepMetrics()
        self.stopwatch.seconds.clear()
        return collected

    def _epoch(self) -> float:
        return round(self.state.global_step * self.run.step_rows / self.run.dataset.sampler.epoch_rows, 4)

    def _count(self, batches: Sequence[ExampleBatch]) -> None:
        """Note the rows of a step in the metrics, and set aside the rows that cannot be used."""
        for example in (example for batch in batches for example in batch.examples):
            self.metrics.sums["rows"] += 1
            self.metrics.sums["tokens"] += example.tokens
            self.metrics.sums["events_limited"] += example.is_limited
            self.metrics.sums["rows_reduced"] += example.is_reduced
            self.stopwatch.seconds["decode"] += example.decode_s
        self._step_rows = [row for batch in batches for row in batch.rows]
        self.set_aside(
            [item for batch in batches for item in batch.skipped],
            [row for row in self._step_rows if row in self._skipped],
        )

    def set_aside(self, skipped: Sequence[Skipped], usable_again: Sequence[tuple[str, str]] = ()) -> None:
        """Write down the rows that any process could not use. Every process must call this.

        Args:
            usable_again: rows that were set aside earlier, and that this step can use.

        Raises:
            TrainingError: more rows than `max_skipped_fraction` cannot be used.
        """
        if not self.sum_over_processes(len(skipped) + len(usable_again))[0]:
            return
        step = self.state.global_step + 1
        for items, rows in gather_object([(list(skipped), list(usable_again))]):
            for row in rows:
                self._skipped.pop(row, None)
            for item in items:
                self._skipped.setdefault((item.source, item.row), replace(item, step=step))
        if self.args.should_save:
            self.run.folder.write_skipped(list(self._skipped.values()))
        check_skipped(list(self._skipped.values()), self.run.sources, self.run.recipe.max_skipped_fraction)

    def _stop(self, what: str, rows: Sequence[tuple[str, str]], is_late: bool = False) -> None:
        named = ", ".join(f"{row} of {source}" for source, row in rows[:8]) or "none"
        last = self.run.folder.last_checkpoint()
        good = f"the last good checkpoint is {last}" if last else "no checkpoint was written yet"
        weights = "DeepSpeed had taken the step by then" if is_late else "the weights were left as they were"
        raise TrainingError(
            f"step {self.state.global_step + 1}: {what}, and {weights}; rows of this step: "
            f"{named}; {good}. Look at these rows, or lower learning_rate"
        )

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        # The data set decides the order; any other sampler would shuffle it a second time.
        return torch.utils.data.SequentialSampler(self.run.dataset)

    def _get_output_dir(self, trial: Any) -> str:
        return str(self.run.folder.staging)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if self.run.recipe.lora or self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        # transformers 5 saves Qwen-VL weights under their published names, and its trainer looks for those of the
        # modules, finds none of them, warns, and continues with the weights that it had.
        saved = load_checkpoint(resume_from_checkpoint, device="cpu", dtype=self.model.dtype)
        self.model.load_state_dict(saved.model.state_dict())

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        schedule: Any = getattr(self.lr_scheduler, "scheduler", self.lr_scheduler)
        if checkpoint is None or self.is_deepspeed_enabled or not isinstance(schedule, LambdaLR):
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        # A checkpoint brings along the rates and coefficients of the run that wrote it. Those of this run count: it may
        # have another recipe, and also the same run may have been made longer.
        bases, groups = list(schedule.base_lrs), schedule.optimizer.param_groups
        decided = [{name: group[name] for name in _OF_RECIPE if name in group} for group in groups]
        super()._load_optimizer_and_scheduler(checkpoint)
        schedule.base_lrs = bases
        rates = zip(bases, schedule.lr_lambdas, strict=True)
        schedule._last_lr = [base * share(schedule.last_epoch) for base, share in rates]
        for group, ours, rate in zip(schedule.optimizer.param_groups, decided, schedule._last_lr, strict=True):
            group.update(ours, lr=rate)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write a checkpoint beside the others, then give it its name."""
        folder, keep = self.run.folder, self.run.recipe.save_total_limit
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
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        model = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        model.save_pretrained(folder, state_dict=state_dict)
        self.save_beside(folder)

    def save_beside(self, folder: Path) -> None:
        """Write what a checkpoint holds beside its weights: tokenizer, processors, settings, model card."""
        run = self.run
        save_companions(folder, run.checkpoint.encoder.tokenizer, run.settings, run.checkpoint.patches)
        card = model_card(run.recipe, run.checkpoint, run.sources, list(self._skipped.values()), self.state.log_history)
        (folder / "README.md").write_text(card, encoding="utf-8")
