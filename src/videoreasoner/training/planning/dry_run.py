"""What a run would need, before it is started: without a GPU, without weights, and without a network."""

from __future__ import annotations

import bisect
import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from videoreasoner.errors import SettingError
from videoreasoner.models.checkpoint import is_hub_id
from videoreasoner.tasks import Task
from videoreasoner.training.grpo.recipe import GrpoRecipe
from videoreasoner.training.grpo.rewards import KEY_ELEMENT_RETRIEVAL, TaskReward, load_rewards
from videoreasoner.training.planning.memory import (
    GAPS,
    GB,
    OVERHEAD_GB,
    Hardware,
    Memory,
    StepShape,
    count_parameters,
    estimate,
    estimate_rollout,
    has_reference,
    in_use_gb,
    kv_width,
    trained_parameters,
)
from videoreasoner.training.planning.model import PlannedModel, is_here, read_model
from videoreasoner.training.planning.row_sizes import PlannedData, RowSize, read_planned_data
from videoreasoner.training.recipe import LOST_UPDATES, SPLIT_QUANTISED, SPLIT_TIED, Recipe, loses_updates
from videoreasoner.training.runtime.arguments import check_names

# The parts of a step's time that follow one another, by their names in metrics.jsonl.
_STEP_PARTS = ("wait", "rollout", "rewards", "reference", "update")
# Tokens of a usual completion: an event or an answer. `max_completion_length` is only a bound.
_USUAL_COMPLETION = 24
# A stand-in for the reward that needs an encoder; planning only checks names and tasks.
_RETRIEVAL = TaskReward((Task.KEY_ELEMENTS,), Task.EVENT, lambda *_: None)


@dataclass(frozen=True)
class DryRun:
    """What a run would need.

    Attributes:
        text: the report.
        problems: why the run is impossible in this way; empty when it is possible.
    """

    text: str
    problems: list[str]


def dry_run(recipe: Recipe, hardware: Hardware) -> DryRun:
    """Plan a cold start or GRPO.

    Raises:
        VideoReasonerError: the recipe cannot be run anywhere; the message says why.
    """
    if isinstance(recipe, GrpoRecipe):
        load_rewards(recipe.rewards, {KEY_ELEMENT_RETRIEVAL: _RETRIEVAL}).check_tasks(recipe.tasks)
    model = read_model(recipe)
    data = read_planned_data(recipe, model)
    network = model.network
    step_rows = recipe.per_device_train_batch_size * recipe.gradient_accumulation_steps * hardware.devices
    steps = data.steps(recipe, step_rows)
    amount_per_step = f"{step_rows} rows"
    amount = "an unknown number of steps" if steps is None else f"{steps} steps"
    iterations, reference = 1, ""
    if isinstance(recipe, GrpoRecipe):
        iterations = recipe.num_iterations
        amount_per_step += f" and up to {step_rows * len(recipe.tasks) * recipe.num_generations} completions"
        reference = ", and as many of the reference" if has_reference(recipe) else ""
    problems = [*_name_problems(recipe), *_data_problems(data, recipe), *_launch_problems(recipe, network, hardware)]
    lines = [
        f"{recipe.model_name_or_path}: {_billions(count_parameters(network))} parameters, "
        f"{_billions(trained_parameters(network, recipe))} of them trained{reference}",
        *([model.note] if model.note else []),
        *_data_notes(data, recipe),
        *(f"CANNOT RUN: {problem}" for problem in problems),
        f"rows: {_row_counts(data)}; {amount} of {amount_per_step}",
        *_token_lines(data, model),
    ]
    too_large = False
    for name, memory in _memories(recipe, hardware, network, data.planned).items():
        fits = in_use_gb(memory) <= hardware.device_gb
        too_large |= not fits
        # That it fits says nothing where it cannot run.
        verdict = "" if fits and problems else f": {'fits' if fits else 'DOES NOT FIT'} into {hardware.device_gb:g} GB"
        lines += [
            f"memory of one of {hardware.devices} device(s), {hardware.strategy}, at the longest row{name}:",
            *(f"  {part:<12} {value / GB:8.2f} GB" for part, value in memory.items() if value),
            f"  {'total':<12} {in_use_gb(memory):8.2f} GB, with {OVERHEAD_GB} GB and {GAPS:.0%} beside tensors"
            f"{verdict}",
        ]
    most = largest_batch(recipe, hardware, network, data.planned)
    largest = f"largest per_device_train_batch_size: {most}" if most else _too_large(recipe, hardware)
    if too_large:
        problems.append(f"it does not fit into {hardware.device_gb:g} GB: {largest}")
    lines += [
        largest,
        _hours(None if steps is None else steps / iterations * step_rows, hardware, recipe.output_dir),
    ]
    return DryRun("\n".join(lines), problems)


def step_shapes(recipe: Recipe, sizes: Sequence[RowSize]) -> dict[str, StepShape]:
    """The largest steps to plan for, every row of them as long as the longest: words that tell them apart -> shape."""
    rows, longest = recipe.per_device_train_batch_size, max(sizes, key=lambda size: size.total)
    if not isinstance(recipe, GrpoRecipe):
        repeats = 1 if recipe.shared_prompt else max(len(size.targets) for size in sizes)
        targets = max(sum(size.targets) for size in sizes)
        return {"": StepShape(rows * repeats, longest.total, longest.visual, targets)}
    shapes: dict[str, StepShape] = {}
    completions = len(recipe.tasks) * recipe.num_generations
    for length in sorted({min(_USUAL_COMPLETION, recipe.max_completion_length), recipe.max_completion_length}):
        repeats, written = (1, completions * length) if recipe.shared_prompt else (completions, length)
        shape = StepShape(rows * repeats, longest.total + written, longest.visual, written)
        shapes[f" with {completions} completions of {length} tokens"] = shape
    return shapes


def largest_batch(recipe: Recipe, hardware: Hardware, network: Any, sizes: Sequence[RowSize]) -> int:
    """Most rows that fit on a device together, up to 1024; 0 when not even one does."""

    def needed_gb(rows: int) -> float:
        tried = recipe.model_copy(update={"per_device_train_batch_size": rows})
        return max(map(in_use_gb, _memories(tried, hardware, network, sizes).values()))

    return bisect.bisect(range(1, 1025), hardware.device_gb, key=needed_gb)


def measured_rate(output_dir: str) -> float | None:
    """Rows per second of an earlier start of the run, from its metrics; None where there are none."""
    path = Path(output_dir) / "metrics.jsonl"
    if not path.is_file():
        return None
    lines: list[dict[str, Any]] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        # A killed run may leave half a line at the end.
        with contextlib.suppress(ValueError):
            lines.append(json.loads(line))
    # The first step warms up. Where several steps use the same rows, the first of them counts the rows.
    timed = [line for line in lines if "rows" in line][1:]
    seconds = sum(line.get(f"time/{part}", 0.0) for line in timed for part in _STEP_PARTS)
    return sum(line["rows"] for line in timed) / seconds if seconds else None


def _billions(parameters: int) -> str:
    return f"{parameters / 1e9:.2f} B" if parameters >= 1e9 else f"{parameters / 1e6:.2f} M"


def _name_problems(recipe: Recipe) -> list[str]:
    try:
        check_names(recipe)
    except SettingError as error:
        return [str(error)]
    return []


def _launch_problems(recipe: Recipe, network: Any, hardware: Hardware) -> list[str]:
    """Reasons why this model cannot be trained in this way."""
    reasons = []
    if recipe.lora and recipe.lora.load_in_4bit and hardware.splits_weights:
        reasons.append(SPLIT_QUANTISED)
    if loses_updates(recipe, hardware.strategy != "ddp"):
        reasons.append(LOST_UPDATES)
    if recipe.lora and hardware.strategy == "fsdp2" and network.config.tie_word_embeddings:
        reasons.append(SPLIT_TIED)
    return reasons


def _data_problems(data: PlannedData, recipe: Recipe) -> list[str]:
    """What stops a run at its rows, beside files that are missing now."""
    if data.skipped_fraction <= recipe.max_skipped_fraction:
        return []
    return [
        f"{data.skipped_fraction:.1%} of the rows would be skipped, and max_skipped_fraction is "
        f"{recipe.max_skipped_fraction:g}; correct the rows, or raise the limit"
    ]


def _data_notes(data: PlannedData, recipe: Recipe) -> list[str]:
    """What is missing, what is assumed instead, and what is wrong with the rows."""
    begins_from = {name: value for name, value in recipe.begins_from.items() if name != "model_name_or_path" and value}
    missing = [*data.missing, *(value for value in begins_from.values() if not is_here(value) and not is_hub_id(value))]
    them = "it" if len(missing) == 1 else "them"
    lines = [f"Missing: {', '.join(missing)}. Training will fail without {them}."] if missing else []
    if data.refused:
        first, looked_at = data.refused[0], len(data.sizes) + len(data.refused)
        lines.append(
            f"{len(data.refused)} of {looked_at} rows looked at would be skipped; the first: {first.row} of "
            f"{first.source}: {first.reason}"
        )
    if data.assumed is not None:
        targets = f", {sum(data.assumed.targets)} of them targets" if data.assumed.targets else ""
        lines.append(
            f"assumed instead: a row as long as the recipe allows: {data.assumed.visual} visual tokens (all frames at "
            f"the largest size), {data.assumed.text} of text{targets}"
        )
    return lines


def _row_counts(data: PlannedData) -> str:
    if not data.sources:
        return "not known"
    skipped, absent = (sum(len(getattr(rows, name)) for rows in data.sources) for name in ("skipped", "absent"))
    counts = f"{sum(map(len, data.sources))} usable, {skipped} skipped"
    counts += f", videos of {absent} not here" if absent else ""
    return counts if data.assumed is None else f"{counts} in the files that are here"


def _token_lines(data: PlannedData, model: PlannedModel) -> list[str]:
    sizes = data.sizes
    if not sizes:
        return ["tokens per row: not known"]
    counts = {"frames": [size.visual for size in sizes], "text": [size.text for size in sizes]}
    if any(size.targets for size in sizes):
        counts["of it targets"] = [sum(size.targets) for size in sizes]
    counts["all"] = [size.total for size in sizes]
    guess = "" if model.has_tokenizer else ", texts counted by characters"
    lines = [f"tokens per row, from {len(sizes)} rows ({data.opened} videos looked into{guess}):"]
    for name, values in counts.items():
        low, middle, high, top = np.quantile(values, [0, 0.5, 0.99, 1]).round().astype(int)
        lines.append(f"  {name:<14} min {low:6d}   median {middle:6d}   p99 {high:6d}   max {top:6d}")
    return lines


def _memories(recipe: Recipe, hardware: Hardware, network: Any, sizes: Sequence[RowSize]) -> dict[str, Memory]:
    """The memory of the largest steps and, in GRPO, of the rollout before: words that tell them apart -> memory."""
    memories = {name: estimate(network, recipe, hardware, shape) for name, shape in step_shapes(recipe, sizes).items()}
    if isinstance(recipe, GrpoRecipe):
        step_rows = recipe.per_device_train_batch_size * recipe.gradient_accumulation_steps
        together = min(recipe.rollout_batch_size, step_rows)
        # The rows of a cache are all as long as the longest.
        written = len(recipe.tasks) * recipe.num_generations * recipe.max_completion_length
        columns = max(size.total for size in sizes) + written
        cached = together * columns * network.config.text_config.num_hidden_layers * 2 * kv_width(network)
        words = f", rollouts of {together} row(s) at once (rollout_batch_size), completions at the limit"
        memories[words] = estimate_rollout(network, recipe, hardware, cached)
    return memories


def _too_large(recipe: Recipe, hardware: Hardware) -> str:
    is_grpo, is_split = isinstance(recipe, GrpoRecipe), hardware.splits_weights
    advice = [
        ("gradient_checkpointing=true", not recipe.gradient_checkpointing),
        ("--strategy zero3 or fsdp2 on more devices", not recipe.lora and not is_split),
        ("max_completion_length lower", is_grpo),
        ("a recipe with lora", recipe.lora is None),
        ("lora.load_in_4bit=true", recipe.lora is not None and not recipe.lora.load_in_4bit),
        ("settings.max_pixels or settings.frame_budget lower", True),
    ]
    return "not even one row fits; try " + ", or ".join(text for text, helps in advice if helps)


def _hours(rows: float | None, hardware: Hardware, output_dir: str) -> str:
    """How long that many rows take, in words."""
    rate, origin = hardware.rows_per_second, "given"
    if rate is None:
        rate, origin = measured_rate(output_dir), "measured in output_dir"
    if rows is None:
        return "hours: not known without the rows"
    if not rate:
        return "hours: not known; give --rows-per-second, or run a few steps into output_dir first"
    return f"hours: {rows / rate / 3600:.2f} at {rate:.3g} rows/s ({origin})"
