"""What a GRPO run would need, before it is started: the cold start's report, with completions and reference added."""

from __future__ import annotations

from dataclasses import replace

from videoreasoner.training.dry_run import (
    Hardware,
    in_use_gb,
    measured_rate,
    planned_method,
    read_model,
    row_sizes,
)
from videoreasoner.training.grpo_recipe import GrpoRecipe
from videoreasoner.training.memory import GB, StepShape, estimate
from videoreasoner.training.order import RowOrder, steps_in_all
from videoreasoner.training.sources import read_sources

# What locating and answering write; the limit only bounds what goes wrong.
_USUAL_COMPLETION = 24


def grpo_dry_run_report(recipe: GrpoRecipe, hardware: Hardware) -> str:
    """The whole report, as text: memory of the update, which needs most, at usual completions and at the limit.

    Raises:
        VideoReasonerError: the recipe cannot be run anywhere; the message says why.
    """
    model = read_model(recipe)
    sources = read_sources(recipe.data, recipe.fields, recipe.video_root, needs_videos=False)
    sizes, looked_into = row_sizes(recipe, model, sources)
    method = planned_method(recipe, hardware)
    order = RowOrder([len(rows) for rows in sources], [rows.weight for rows in sources], recipe.seed)
    step_rows = recipe.per_device_train_batch_size * recipe.gradient_accumulation_steps * method.devices
    steps = recipe.max_steps
    if steps < 0:
        steps = recipe.num_iterations * steps_in_all(recipe.num_train_epochs, order.epoch_rows, step_rows)
    completions = len(recipe.tasks) * recipe.num_generations
    has_reference = recipe.beta > 0 and recipe.lora is None
    reference = model.shape.parameters * method.precision.weight_bytes if has_reference else 0
    skipped = sum(len(rows.skipped) for rows in sources)
    longest = max(sizes, key=lambda size: size.total)
    lines = [
        f"{recipe.model_name_or_path}: {model.shape.parameters / GB:.2f} B parameters"
        f"{', and as many of the reference' if has_reference else ''}",
        f"rows: {sum(map(len, sources))} usable, {skipped} skipped; {steps} steps of {step_rows} rows "
        f"and {step_rows * completions} completions",
        f"longest prompt of {len(sizes)} rows ({looked_into} films looked into): {longest.total} tokens, "
        f"{longest.visual} of them visual",
        f"memory of one of {method.devices} device(s), {hardware.strategy}, at the longest prompt:",
    ]
    for length in sorted({min(_USUAL_COMPLETION, recipe.max_completion_length), recipe.max_completion_length}):
        written = completions * length
        rows, tokens = recipe.per_device_train_batch_size, longest.total + written
        if not recipe.shared_prompt:
            rows, tokens, written = rows * completions, longest.total + length, length
        memory = estimate(model.shape, method, StepShape(rows, tokens, longest.visual, written))
        used = in_use_gb(replace(memory, weights=memory.weights + reference))
        fits = "fits" if used <= hardware.device_gb else "DOES NOT FIT"
        parts = {**memory.parts(), "reference": reference}
        listed = ", ".join(f"{name} {value / GB:.2f}" for name, value in parts.items())
        lines.append(
            f"  completions of {length} tokens: {used:.2f} GB ({listed}), {fits} into {hardware.device_gb:g} GB"
        )
    rate = hardware.rows_per_second or measured_rate(recipe.output_dir)
    if rate:
        lines.append(f"hours: {steps / recipe.num_iterations * step_rows / rate / 3600:.2f} at {rate:.3g} rows/s")
    else:
        lines.append("hours: not known; give --rows-per-second, or run a few steps into output_dir first")
    return "\n".join(lines)
