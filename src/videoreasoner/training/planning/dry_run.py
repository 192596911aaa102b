"""What a run would need, before it is started: without a GPU, without weights, and without a network."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from videoreasoner.errors import SettingError
from videoreasoner.rows import Row
from videoreasoner.tasks import Task, thought_text
from videoreasoner.training.data.examples import completions, target_texts, text_length
from videoreasoner.training.planning.memory import (
    GB,
    STRATEGIES,
    Memory,
    Method,
    Precision,
    StepShape,
    Strategy,
    estimate,
    trained_parameters,
)
from videoreasoner.training.planning.row_sizes import Model, RowSize, TextTokens, guessed_tokens, read_data, read_model
from videoreasoner.training.recipe import LOST_UPDATES, SPLIT_TIED, Recipe, loses_updates

# What a step's time is spent on, by the names of metrics.jsonl; one after the other.
_STEP_PARTS = ("wait", "rollout", "rewards", "reference", "update")
# What a GPU holds beside tensors: the CUDA context, workspaces, and gaps between blocks.
_ASIDE_GB, _GAPS = 1.5, 0.05


@dataclass(frozen=True)
class Hardware:
    """What the run is planned for.

    Attributes:
        devices: how many; None: 1.
        strategy: ddp, zero2, zero3 or fsdp2.
        device_gb: memory of one.
        rows_per_second: of all together, where it is known.
    """

    devices: int | None = None
    strategy: str = "ddp"
    device_gb: float = 80.0
    rows_per_second: float | None = None

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise SettingError(f"--strategy {self.strategy}: choose one of {', '.join(STRATEGIES)}")
        if self.devices is not None and self.devices < 1:
            raise SettingError(f"--devices {self.devices}: give at least 1")


def planned_method(recipe: Recipe, hardware: Hardware) -> Method:
    """How the recipe trains on that hardware. DeepSpeed and FSDP compute in bfloat16 by our profiles."""
    is_split = hardware.strategy != "ddp"
    # FSDP keeps what it trains in float32 alone.
    is_upcast = hardware.strategy == "fsdp2" and recipe.lora is None
    weight_bytes = 2 if recipe.dtype == "bfloat16" and not is_upcast else 4
    return Method(
        cast(Strategy, hardware.strategy),
        hardware.devices or 1,
        Precision(weight_bytes, recipe.bf16 or is_split),
        recipe.lora.r if recipe.lora else 0,
        bool(recipe.lora and recipe.lora.load_in_4bit),
        recipe.freeze_vision,
        recipe.gradient_checkpointing,
    )


def launch_notes(recipe: Recipe, model: Model, hardware: Hardware) -> list[str]:
    """What stands against training these weights in that way."""
    reasons = [LOST_UPDATES] if loses_updates(recipe, hardware.strategy != "ddp") else []
    if recipe.lora and hardware.strategy == "fsdp2" and model.shape.text.is_tied:
        reasons.append(SPLIT_TIED)
    return [f"CANNOT RUN: {reason}" for reason in reasons]


def count_text(parameters: int) -> str:
    """`8.29 B`, `160.00 M`."""
    return f"{parameters / 1e9:.2f} B" if parameters >= 1e9 else f"{parameters / 1e6:.2f} M"


def step_shape(sizes: Sequence[RowSize], rows: int, is_shared: bool = True) -> StepShape:
    """The largest step: every row of it as long as the longest."""
    longest = max(sizes, key=lambda size: size.total)
    targets = max(sum(size.targets) for size in sizes)
    repeats = 1 if is_shared else max(len(size.targets) for size in sizes)
    return StepShape(rows * repeats, longest.total, longest.visual, targets)


def in_use_gb(memory: Memory) -> float:
    """Of a GPU, with what it holds beside tensors."""
    return memory.total / GB * (1 + _GAPS) + _ASIDE_GB


def largest_batch(model: Model, method: Method, sizes: Sequence[RowSize], device_gb: float, is_shared: bool) -> int:
    """Most rows at once that fit on a device; 0: not even one does."""
    rows = 0
    while rows < 1024 and in_use_gb(estimate(model.shape, method, step_shape(sizes, rows + 1, is_shared))) <= device_gb:
        rows += 1
    return rows


def measured_rate(output_dir: str) -> float | None:
    """Rows a second of an earlier start of the run, from its metrics; None where there are none."""
    path = Path(output_dir) / "metrics.jsonl"
    if not path.is_file():
        return None
    lines: list[dict[str, Any]] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        # The last line of a killed run may be half written.
        with contextlib.suppress(ValueError):
            lines.append(json.loads(line))
    # The first step warms up. Of several steps on the same rows, the first one alone has them.
    timed = [line for line in lines if "rows" in line][1:]
    seconds = sum(line.get(f"time/{part}", 0.0) for line in timed for part in _STEP_PARTS)
    return sum(line["rows"] for line in timed) / seconds if seconds else None


def lesson_tokens(recipe: Recipe, model: Model) -> TextTokens:
    """Counts question and targets, as `Lessons` puts them behind the clip."""

    def count(row: Row, duration_s: float) -> tuple[int, tuple[int, ...]]:
        encoder = model.encoder
        if encoder is None:
            parts = {
                Task.EVENT: "<s>[0.12, 0.47]<e>" * 2,
                Task.KEY_ELEMENTS: ", ".join(row.key_elements or ()),
                Task.ANSWER: row.answer or "",
                Task.THINK: thought_text(row.reasoning or "", row.answer or ""),
            }
            prefixes = model.settings.prompts.prefixes
            return guessed_tokens(model, row, [prefixes[t] + parts[t] for t in recipe.tasks if t in row.tasks()])
        targets = completions(target_texts(row, recipe.tasks, encoder, duration_s), encoder, recipe.max_target_length)
        question = encoder.question(row.question, row.options or ())
        return text_length(question, targets, encoder), tuple(map(len, targets.values()))

    return count


def dry_run_report(recipe: Recipe, hardware: Hardware) -> str:
    """The whole report, as text.

    Raises:
        VideoReasonerError: the recipe cannot be run anywhere; the message says why.
    """
    model = read_model(recipe)
    data = read_data(recipe, model, lesson_tokens(recipe, model), (recipe.max_target_length,) * len(recipe.tasks))
    method = planned_method(recipe, hardware)
    step = step_shape(data.planned, recipe.per_device_train_batch_size, recipe.shared_prompt)
    memory = estimate(model.shape, method, step)
    step_rows = recipe.per_device_train_batch_size * recipe.gradient_accumulation_steps * method.devices
    steps = data.steps(recipe, step_rows)
    used = in_use_gb(memory)
    most = largest_batch(model, method, data.planned, hardware.device_gb, recipe.shared_prompt)
    fits = "fits" if used <= hardware.device_gb else "DOES NOT FIT"
    lines = [
        f"{recipe.model_name_or_path}: {count_text(model.shape.parameters)} parameters, "
        f"{count_text(trained_parameters(model.shape, method))} of them trained",
        *([model.missing] if model.missing else []),
        *data.notes(recipe.max_skipped_fraction),
        *launch_notes(recipe, model, hardware),
        f"rows: {data.counts}; {steps_text(steps)} of {step_rows} rows",
        *_tokens(data.sizes, data.looked_into, is_guess=model.encoder is None),
        f"memory of one of {method.devices} device(s), {hardware.strategy}, at the longest row:",
        *(f"  {name:<12} {value / GB:8.2f} GB" for name, value in memory.parts().items()),
        f"  {'in all':<12} {used:8.2f} GB, with {_ASIDE_GB} GB and {_GAPS:.0%} beside tensors: "
        f"{fits} into {hardware.device_gb:g} GB",
        f"largest per_device_train_batch_size: {most}" if most else _too_large(recipe, hardware),
        hours_text(steps and steps * step_rows, hardware.rows_per_second, measured_rate(recipe.output_dir)),
    ]
    return "\n".join(lines)


def _too_large(recipe: Recipe, hardware: Hardware) -> str:
    advice = [
        ("gradient_checkpointing=true", not recipe.gradient_checkpointing),
        ("--strategy zero3 or fsdp2 on more devices", hardware.strategy in ("ddp", "zero2") and not recipe.lora),
        ("a recipe with lora", recipe.lora is None),
        ("lora.load_in_4bit=true", recipe.lora is not None and not recipe.lora.load_in_4bit),
        ("settings.max_pixels or settings.frame_budget lower", True),
    ]
    return "not even one row fits; try " + ", or ".join(text for text, helps in advice if helps)


def _tokens(sizes: Sequence[RowSize], looked_into: int, is_guess: bool) -> list[str]:
    if not sizes:
        return ["tokens of a row: not known"]
    return [
        f"tokens of a row, from {len(sizes)} rows ({looked_into} videos looked into"
        f"{', texts counted by characters' if is_guess else ''}):",
        _spread("frames", [size.visual for size in sizes]),
        _spread("text", [size.text for size in sizes]),
        _spread("of it targets", [sum(size.targets) for size in sizes]),
        _spread("all", [size.total for size in sizes]),
    ]


def _spread(name: str, values: Sequence[int]) -> str:
    low, middle, high, top = np.quantile(values, [0, 0.5, 0.99, 1]).round().astype(int)
    return f"  {name:<14} min {low:6d}   median {middle:6d}   p99 {high:6d}   max {top:6d}"


def steps_text(steps: int | None) -> str:
    """How many steps, in words."""
    return "an unknown number of steps" if steps is None else f"{steps} steps"


def hours_text(rows: float | None, given: float | None, measured: float | None) -> str:
    """How long so many rows take at a rate in rows a second, in words."""
    rate = given or measured
    if rows is None:
        return "hours: not known without the rows"
    if not rate:
        return "hours: not known; give --rows-per-second, or run a few steps into output_dir first"
    origin = "given" if given else "measured in output_dir"
    return f"hours: {rows / rate / 3600:.2f} at {rate:.3g} rows/s ({origin})"
