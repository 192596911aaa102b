"""What a run would need, before it is started: without a GPU, without weights, and without a network."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from videoreasoner.errors import CheckpointError, QuestionError, RowError, SettingError, VideoError
from videoreasoner.models.checkpoint import SHIPPED, find_folder
from videoreasoner.models.encoding import PromptEncoder
from videoreasoner.models.event_tokens import extend_tokenizer
from videoreasoner.rows import Row
from videoreasoner.settings import Settings
from videoreasoner.training.examples import completions, target_texts, text_length
from videoreasoner.training.frames import ClipReader, FilmFacts, plan_within, tokens_a_pair
from videoreasoner.training.memory import (
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
from videoreasoner.training.order import RowOrder, steps_in_all
from videoreasoner.training.recipe import Recipe
from videoreasoner.training.shapes import ModelShape, config_shape, published_shape
from videoreasoner.training.sources import Rows, read_sources
from videoreasoner.video.patches import PatchSettings

# More rows than this tell nothing new, and every film has to be opened.
_ROWS_LOOKED_AT = 200
# What a GPU holds beside tensors: the CUDA context, workspaces, and gaps between blocks.
_ASIDE_GB, _GAPS = 1.5, 0.05
_CHARACTERS_A_TOKEN = 3.5


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


@dataclass(frozen=True)
class RowSize:
    """Tokens of one row."""

    visual: int
    text: int
    targets: tuple[int, ...]

    @property
    def total(self) -> int:
        return self.visual + self.text


@dataclass(frozen=True)
class Model:
    """What is known of a model without its weights.

    Attributes:
        encoder: None where no tokenizer is here; texts are then counted by characters.
    """

    shape: ModelShape
    settings: Settings
    patches: PatchSettings
    encoder: PromptEncoder | None


def read_model(recipe: Recipe) -> Model:
    """The model of a recipe, from its folder or from the table of published ones.

    Raises:
        CheckpointError: neither knows it.
        SettingError: the recipe's settings make no sense.
    """
    name = recipe.model_name_or_path
    shape = published_shape(name)
    is_here = Path(name).expanduser().is_dir() or (SHIPPED / name).is_dir()
    if shape is not None and not is_here:
        settings = Settings().changed(**recipe.settings)
        patches = PatchSettings(min_pixels=settings.min_pixels, max_pixels=settings.max_pixels)
        return Model(shape, settings, patches, None)
    folder = find_folder(name)
    settings = Settings.load(folder).changed(**recipe.settings)
    try:
        shape = config_shape(json.loads((folder / "config.json").read_text()))
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise CheckpointError(f"{folder}/config.json: not the configuration of a Qwen-VL model ({error!r})") from error
    patches = PatchSettings.from_folder(folder, min_pixels=settings.min_pixels, max_pixels=settings.max_pixels)
    return Model(shape, settings, patches, _encoder(folder, settings))


def _encoder(folder: Path, settings: Settings) -> PromptEncoder | None:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder}: its tokenizer cannot be read ({error})") from error
    extend_tokenizer(tokenizer)
    return PromptEncoder(tokenizer, settings.prompts)


def row_sizes(recipe: Recipe, model: Model, sources: Sequence[Rows]) -> tuple[list[RowSize], int]:
    """Tokens of up to 200 rows, evenly spread, and how many of their films could be looked into.

    A film that is not here or cannot be opened counts as long enough for all frames, of the largest size.
    """
    rows = [(source, row) for source in sources for row in source.rows]
    chosen = [rows[i] for i in np.linspace(0, len(rows) - 1, min(len(rows), _ROWS_LOOKED_AT)).round().astype(int)]
    reader = ClipReader(model.settings, model.patches, recipe.decode_time_limit_s)
    sizes: list[RowSize] = []
    looked_into = 0
    for source, row in chosen:
        try:
            with reader.film(row.video_path(source.video_root)) as film:
                facts = film.facts
            looked_into += 1
        except VideoError:
            side = math.isqrt(model.settings.max_pixels)
            facts = FilmFacts(row.duration or model.settings.frame_budget / model.settings.sparse_rate_fps, side, side)
        try:
            sizes.append(_row_size(recipe, model, row, facts))
        except (RowError, QuestionError, VideoError):
            # Such a row is skipped in training, and said there.
            continue
    if not sizes:
        raise RowError(f"none of the {len(chosen)} rows looked at can be used; the run itself says why")
    return sizes, looked_into


def _row_size(recipe: Recipe, model: Model, row: Row, facts: FilmFacts) -> RowSize:
    text, targets = _text_tokens(recipe, model, row, facts.duration_s)
    plan = plan_within(facts, model.settings.sampling, model.patches, recipe.max_length - text)
    if plan is None:
        raise RowError(f"row {row.id}: no room for frames")
    return RowSize(len(plan) * tokens_a_pair(facts, model.patches), text, targets)


def _text_tokens(recipe: Recipe, model: Model, row: Row, duration_s: float) -> tuple[int, tuple[int, ...]]:
    encoder = model.encoder
    if encoder is not None:
        texts = target_texts(row, recipe.tasks, encoder, duration_s)
        targets = completions(texts, encoder, recipe.max_target_length)
        question = encoder.question(row.question, row.options or ())
        return text_length(question, targets, encoder), tuple(map(len, targets.values()))
    prompts = model.settings.prompts
    parts = {
        "event": "<s>[0.12, 0.47]<e>" * 2,
        "key_elements": ", ".join(row.key_elements or ()),
        "answer": row.answer or "",
    }
    wanted = [task for task in recipe.tasks if task in row.tasks()]
    counts = tuple(_guess(prompts.prefixes[task] + parts[task]) + 1 for task in wanted)
    return _guess(prompts.system + prompts.user_text(row.question, row.options or ())) + 20 + sum(counts), counts


def _guess(text: str) -> int:
    return math.ceil(len(text) / _CHARACTERS_A_TOKEN)


def planned_method(recipe: Recipe, hardware: Hardware) -> Method:
    """How the recipe trains on that hardware. DeepSpeed and FSDP compute in bfloat16 by our profiles."""
    is_split = hardware.strategy != "ddp"
    weight_bytes = 2 if recipe.dtype == "bfloat16" else 4
    return Method(
        cast(Strategy, hardware.strategy),
        hardware.devices or 1,
        Precision(weight_bytes, recipe.bf16 or is_split),
        recipe.lora.r if recipe.lora else 0,
        bool(recipe.lora and recipe.lora.load_in_4bit),
        recipe.freeze_vision,
        recipe.gradient_checkpointing,
    )


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
    lines: list[dict[str, Any]] = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    timed = [line for line in lines if "rows" in line and "time/update" in line]
    # The first step warms up.
    rates = [line["rows"] / (line["time/update"] + line["time/wait"]) for line in timed[1:]]
    return float(np.median(rates)) if rates else None


def dry_run_report(recipe: Recipe, hardware: Hardware) -> str:
    """The whole report, as text.

    Raises:
        VideoReasonerError: the recipe cannot be run anywhere; the message says why.
    """
    model = read_model(recipe)
    sources = read_sources(recipe.data, recipe.tasks, recipe.video_root, needs_videos=False)
    sizes, looked_into = row_sizes(recipe, model, sources)
    method = planned_method(recipe, hardware)
    step = step_shape(sizes, recipe.per_device_train_batch_size, recipe.shared_prompt)
    memory = estimate(model.shape, method, step)
    order = RowOrder([len(rows) for rows in sources], [rows.weight for rows in sources], recipe.seed)
    step_rows = recipe.per_device_train_batch_size * recipe.gradient_accumulation_steps * method.devices
    steps = recipe.max_steps if recipe.max_steps > 0 else steps_in_all(
        recipe.num_train_epochs, order.epoch_rows, step_rows
    )  # fmt: skip
    skipped = sum(len(rows.skipped) for rows in sources)
    used = in_use_gb(memory)
    most = largest_batch(model, method, sizes, hardware.device_gb, recipe.shared_prompt)
    fits = "fits" if used <= hardware.device_gb else "DOES NOT FIT"
    lines = [
        f"{recipe.model_name_or_path}: {model.shape.parameters / GB:.2f} B parameters, "
        f"{trained_parameters(model.shape, method) / GB:.3f} B of them trained",
        f"rows: {sum(map(len, sources))} usable, {skipped} skipped; {steps} steps of {step_rows} rows",
        f"tokens of a row, from {len(sizes)} rows ({looked_into} films looked into"
        f"{', texts counted by characters' if model.encoder is None else ''}):",
        _spread("frames", [size.visual for size in sizes]),
        _spread("text", [size.text for size in sizes]),
        _spread("of it targets", [sum(size.targets) for size in sizes]),
        _spread("all", [size.total for size in sizes]),
        f"memory of one of {method.devices} device(s), {hardware.strategy}, at the longest row:",
        *(f"  {name:<12} {value / GB:8.2f} GB" for name, value in memory.parts().items()),
        f"  {'in all':<12} {used:8.2f} GB, with {_ASIDE_GB} GB and {_GAPS:.0%} beside tensors: "
        f"{fits} into {hardware.device_gb:g} GB",
        f"largest per_device_train_batch_size: {most}" if most else _too_large(recipe, hardware),
        _hours(steps * step_rows, hardware.rows_per_second, measured_rate(recipe.output_dir)),
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


def _spread(name: str, values: Sequence[int]) -> str:
    low, middle, high, top = np.quantile(values, [0, 0.5, 0.99, 1]).round().astype(int)
    return f"  {name:<14} min {low:6d}   median {middle:6d}   p99 {high:6d}   max {top:6d}"


def _hours(rows: int, given: float | None, measured: float | None) -> str:
    rate = given or measured
    if not rate:
        return "hours: not known; give --rows-per-second, or run a few steps into output_dir first"
    origin = "given" if given else "measured in output_dir"
    return f"hours: {rows / rate / 3600:.2f} at {rate:.3g} rows/s ({origin})"
