"""What a GRPO run would need, before it is started: the cold start's report, with completions and reference added."""

from __future__ import annotations

import math
from dataclasses import replace

from videoreasoner.rows import Row
from videoreasoner.tasks import Task
from videoreasoner.training.data.examples import text_length
from videoreasoner.training.data.queries import asked
from videoreasoner.training.grpo.leaf_batch import tokens_at_once
from videoreasoner.training.grpo.recipe import SPLIT_WEIGHTS, GrpoRecipe
from videoreasoner.training.grpo.rewards import KEY_ELEMENT_RETRIEVAL, TaskReward, load_rewards
from videoreasoner.training.planning.dry_run import (
    Hardware,
    count_text,
    hours_text,
    in_use_gb,
    launch_notes,
    measured_rate,
    planned_method,
    steps_text,
)
from videoreasoner.training.planning.memory import GB, StepShape, estimate
from videoreasoner.training.planning.row_sizes import Model, TextTokens, guessed_tokens, read_data, read_model

# What locating and answering write; the limit only bounds what goes wrong.
_USUAL_COMPLETION = 24


# The encoder is not needed to plan for what it judges.
_RETRIEVAL = TaskReward((Task.KEY_ELEMENTS,), Task.EVENT, lambda *_: None)


def query_tokens(recipe: GrpoRecipe, model: Model) -> TextTokens:
    """Counts question and task prefixes, as `QueryMaker` puts them behind the clip."""
    wanted = {task: frozenset({recipe.field(task)}) for task in recipe.tasks}

    def count(row: Row, duration_s: float) -> tuple[int, tuple[int, ...]]:
        if model.encoder is None:
            written = [model.settings.prompts.prefixes[task] for task in wanted if wanted[task] & row.tasks()]
            return guessed_tokens(model, row, written)[0], ()
        question, prefixes = asked(row, wanted, model.encoder, duration_s)
        return text_length(question, prefixes, model.encoder), ()

    return count


def grpo_dry_run_report(recipe: GrpoRecipe, hardware: Hardware) -> str:
    """The whole report, as text: memory of the update, which needs most, at usual completions and at the limit.

    Raises:
        VideoReasonerError: the recipe cannot be run anywhere; the message says why.
    """
    load_rewards(recipe.rewards, {KEY_ELEMENT_RETRIEVAL: _RETRIEVAL}).check_tasks(recipe.tasks)
    model = read_model(recipe)
    # What is written is counted below.
    data = read_data(recipe, model, query_tokens(recipe, model), ())
    method = planned_method(recipe, hardware)
    step_rows = recipe.per_device_train_batch_size * recipe.gradient_accumulation_steps * method.devices
    steps = data.steps(recipe, step_rows)
    # Epochs count batches of rows, and each is learned from several times.
    if steps is not None and recipe.max_steps < 0:
        steps *= recipe.num_iterations
    completions = len(recipe.tasks) * recipe.num_generations
    has_reference = recipe.beta > 0 and recipe.lora is None
    reference = model.shape.parameters * method.precision.weight_bytes if has_reference else 0
    longest = max(data.planned, key=lambda size: size.total)
    lines = [
        f"{recipe.model_name_or_path}: {count_text(model.shape.parameters)} parameters"
        f"{', and as many of the reference' if has_reference else ''}",
        *([model.missing] if model.missing else []),
        *data.notes(recipe.max_skipped_fraction),
        *([f"CANNOT RUN: {SPLIT_WEIGHTS}"] if hardware.strategy in ("zero3", "fsdp2") else []),
        *launch_notes(recipe, model, hardware),
        f"rows: {data.counts}; {steps_text(steps)} of {step_rows} rows and up to {step_rows * completions} completions",
        f"longest prompt: {longest.total} tokens, {longest.visual} of them visual ({len(data.sizes)} rows and "
        f"{data.looked_into} videos looked into)",
        f"memory of one of {method.devices} device(s), {hardware.strategy}, at the longest prompt:",
    ]
    for length in sorted({min(_USUAL_COMPLETION, recipe.max_completion_length), recipe.max_completion_length}):
        written = completions * length
        rows, tokens = recipe.per_device_train_batch_size, longest.total + written
        if not recipe.shared_prompt:
            rows, tokens, written = rows * completions, longest.total + length, length
        at_once = min(rows * written, tokens_at_once(model.shape.text.vocabulary))
        memory = estimate(model.shape, method, StepShape(rows, tokens, longest.visual, math.ceil(at_once / rows)))
        used = in_use_gb(replace(memory, weights=memory.weights + reference))
        fits = "fits" if used <= hardware.device_gb else "DOES NOT FIT"
        parts = {**memory.parts(), "reference": reference}
        listed = ", ".join(f"{name} {value / GB:.2f}" for name, value in parts.items())
        lines.append(
            f"  completions of {length} tokens: {used:.2f} GB ({listed}), {fits} into {hardware.device_gb:g} GB"
        )
    together = min(recipe.rollout_batch_size, recipe.per_device_train_batch_size * recipe.gradient_accumulation_steps)
    # Rows of a cache are all as long as the longest.
    columns = longest.total + completions * recipe.max_completion_length
    cache = together * columns * model.shape.text.layers * 2 * model.shape.text.kv_width
    lines.append(
        f"  rollouts, before the update: {cache * method.precision.activation_bytes / GB:.2f} GB of keys and values "
        f"for {together} row(s) at once (rollout_batch_size), at the limit of completions"
    )
    rows_in_all = None if steps is None else steps / recipe.num_iterations * step_rows
    lines.append(hours_text(rows_in_all, hardware.rows_per_second, measured_rate(recipe.output_dir)))
    return "\n".join(lines)
