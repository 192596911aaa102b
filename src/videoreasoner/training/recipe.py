"""Recipes: everything that decides a training run, as one YAML file.

The semantics are TRL's: names are those of transformers' `TrainingArguments` and of TRL where they have one, `--set`
wins over the file, and an unknown key is an error that names the nearest one that exists. A recipe may say
`base: other.yaml` (relative to itself, or the name of a shipped recipe) and then states only what differs.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from videoreasoner.errors import SettingError
from videoreasoner.tasks import Task
from videoreasoner.training.catalog import find
from videoreasoner.utils.files import read_small
from videoreasoner.utils.validation import explain
from videoreasoner.utils.yaml_text import parse_yaml
from videoreasoner.video.sampling import PAIR

Positive = Annotated[int, Field(ge=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Source(_Strict):
    """One file of rows, or one data set of the Hugging Face hub."""

    path: str | None = Field(None, description="a JSON-lines file")
    dataset: str | None = Field(None, description="a `datasets` id, or a format such as json with data_files")
    data_files: str | None = Field(None, description="the files of that data set, where the id alone does not say")
    split: str = Field("train", description="the split of the data set")
    weight: float = Field(1.0, gt=0, description="how often each row comes in an epoch; 0.5: half of the rows")
    video_root: str | None = Field(None, description="relative videos of this file lie here")

    @model_validator(mode="after")
    def _one_place(self) -> Source:
        if (self.path is None) == (self.dataset is None):
            raise ValueError("give either path or dataset")
        return self

    @property
    def name(self) -> str:
        """What messages and counts call it."""
        return self.path or ":".join(filter(None, (self.dataset, self.data_files, self.split)))


class Lora(_Strict):
    """Low-rank adapters (peft), by peft's own names."""

    r: Positive = Field(64, description="rank")
    lora_alpha: Positive = Field(128, description="scale, divided by the rank")
    lora_dropout: float = Field(0.05, ge=0, lt=1, description="dropout before an adapter")
    target_modules: str | list[str] = Field(
        r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)",
        description="names of linear layers, or one regular expression; by default all of the language model",
    )
    load_in_4bit: bool = Field(False, description="QLoRA: the base weights in NF4 (bitsandbytes, a GPU)")


class Recipe(_Strict):
    """What every kind of training needs. All paths are relative to the working directory."""

    model_name_or_path: str = Field(description="a shipped model, a checkpoint folder or a Hugging Face id")
    output_dir: str = Field(description="folder of checkpoints, metrics.jsonl, skipped.jsonl, and the final model")
    resume_from_checkpoint: str | None = Field(
        None, description="a checkpoint folder of another run to continue from, when output_dir holds none"
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="of the weights; bf16 below is separate; bfloat16 needs lora, DeepSpeed or FSDP"
    )
    settings: dict[str, Any] = Field(
        default_factory=dict, description="fields of videoreasoner.json that replace the model's: frame_budget ..."
    )
    freeze_vision: bool = Field(False, description="do not train the vision tower")
    lora: Lora | None = Field(None, description="train adapters instead of all weights")
    shared_prompt: bool = Field(True, description="one tree a row; off: one repeated row a target, for comparison")

    data: list[Source] = Field(min_length=1, description="rows to train on")
    eval_data: list[Source] = Field(default_factory=list, description="held-out rows to sample outputs for")
    video_root: str | None = Field(None, description="relative videos lie here; by default the working directory")
    tasks: list[Task] = Field(
        [Task.EVENT, Task.KEY_ELEMENTS, Task.ANSWER], min_length=1, description="the tasks to train"
    )
    max_length: Positive = Field(16384, description="most tokens of a row; a longer row is shown fewer frames")
    max_target_length: Positive = Field(512, description="most tokens of a target; longer: the row is skipped")
    max_skipped_fraction: float = Field(0.02, ge=0, le=1, description="share of unusable rows that stops the run")
    decode_time_limit_s: float = Field(300.0, gt=0, description="most seconds for a video; longer: the row is skipped")
    frame_cache_dir: str | None = Field(None, description="folder for decoded, resized frames; none: no cache")
    frame_cache_gb: float = Field(50.0, gt=0, description="most that this folder may hold")

    per_device_train_batch_size: Positive = Field(1, description="rows at once on one device")
    gradient_accumulation_steps: Positive = Field(1, description="batches a step")
    num_train_epochs: float = Field(1.0, gt=0, description="passes over the data")
    max_steps: int = Field(-1, description="steps, instead of epochs, when > 0")
    learning_rate: float = Field(2e-6, gt=0)
    lr_scheduler_type: str = Field("cosine", description="any of transformers' schedules")
    warmup_steps: float = Field(0.0, ge=0, description="steps; below 1: share of all steps")
    optim: str = Field("adamw_torch", description="any of transformers' optimizers")
    adam_beta1: float = Field(0.9, ge=0, lt=1)
    adam_beta2: float = Field(0.999, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, ge=0, description="gradients are scaled down to this norm; 0: never")
    bf16: bool = Field(False, description="mixed precision")
    gradient_checkpointing: bool = Field(True, description="compute activations again instead of keeping them")
    seed: int = Field(0, ge=0, description="decides the order of rows and, with LoRA, initial adapters and dropout")
    dataloader_num_workers: int = Field(2, ge=0, description="processes a device that decode and tokenise")

    logging_steps: Positive = Field(1, description="steps between two lines of metrics.jsonl")
    save_steps: Positive = Field(100, description="steps between two checkpoints")
    save_total_limit: Positive = Field(2, description="checkpoints kept")
    eval_steps: Positive = Field(100, description="steps between two samples of outputs")
    eval_rows: Positive = Field(8, description="rows of eval_data to sample outputs for")
    report_to: str | list[str] = Field("none", description="trackers: wandb, trackio, tensorboard ...")
    run_name: str | None = Field(None, description="what trackers call the run")
    push_to_hub: bool = Field(False, description="upload the finished model to the Hugging Face hub")
    hub_model_id: str | None = Field(None, description="repository to upload to; by default output_dir's last part")
    hub_private_repo: bool | None = Field(None, description="of a new repository; by default as the owner has set")
    license: str | None = Field(None, description="of the trained model, for its card; by default the base model's")
    trainer: dict[str, Any] = Field(default_factory=dict, description="any other field of TrainingArguments")

    @property
    def row_fields(self) -> dict[Task, frozenset[Task]]:
        """For each task, the row fields (named by their task) of which a row needs at least one to be used for it."""
        return {task: frozenset({task}) for task in self.tasks}

    @property
    def begins_from(self) -> dict[str, str | None]:
        """The models and checkpoints that a run of this recipe needs, by the names of their settings."""
        names = ("model_name_or_path", "resume_from_checkpoint", "ref_model")
        return {name: getattr(self, name, None) for name in names}

    @field_validator("tasks")
    @classmethod
    def _each_once(cls, tasks: list[Task]) -> list[Task]:
        if len(set(tasks)) < len(tasks):
            raise ValueError("a task is there twice; name each once")
        # One order for all, so that the same rows give the same trees.
        return [task for task in Task if task in tasks]

    @model_validator(mode="after")
    def _makes_sense(self) -> Recipe:
        if self.max_steps == 0 or self.max_steps < -1:
            raise ValueError(f"max_steps is {self.max_steps}; give a number of steps, or -1 to go by num_train_epochs")
        budget = self.settings.get("frame_budget")
        if isinstance(budget, int) and budget < PAIR:
            raise ValueError(f"settings.frame_budget is {budget}; frames come in pairs, so give at least {PAIR}")
        twice = sorted(set(self.trainer) & set(type(self).model_fields))
        if twice:
            raise ValueError(f"trainer.{twice[0]}: a key of the recipe itself; write it there")
        return self


class ColdStartRecipe(Recipe):
    """Supervised training of the task formats (paper, section "Multi-task Cold-start SFT")."""


_MOST_BYTES = 2**20
_LONGEST_NAME = 1000
R = TypeVar("R", bound=BaseModel)

# These may change between two starts of one run: they decide where files go and how fast it is, not what is learned.
FREE_FIELDS = frozenset(
    {
        "output_dir", "resume_from_checkpoint", "video_root", "max_skipped_fraction", "decode_time_limit_s",
        "frame_cache_dir", "frame_cache_gb", "dataloader_num_workers", "logging_steps", "save_steps",
        "per_device_train_batch_size", "gradient_accumulation_steps",
        "save_total_limit", "eval_steps", "eval_rows", "eval_data", "report_to", "run_name", "gradient_checkpointing",
        "rollout_batch_size", "recorded_rollouts", "log_completions", "num_completions_to_print", "alarm_steps",
        "push_to_hub", "hub_model_id", "hub_private_repo", "license",
    }
)  # fmt: skip


LOST_UPDATES = (
    "dtype: bfloat16 weights lose most updates to rounding unless DeepSpeed or FSDP keep float32 ones beside them; "
    "launch with the profile accelerate/zero2, zero3 or fsdp2 (`videoreasoner train --list`), or set dtype=float32 "
    "(bf16: true computes in bfloat16 all the same)"
)


SPLIT_TIED = (
    "lora: FSDP cannot split the event tokens' rows of this model, because its output layer is its embedding; launch "
    "with the profile accelerate/multi_gpu, zero2 or zero3 (`videoreasoner train --list`)"
)


SPLIT_QUANTISED = (
    "lora.load_in_4bit: FSDP and ZeRO-3 cannot split quantised weights here; launch with the profile "
    "accelerate/multi_gpu or zero2 (`videoreasoner train --list`)"
)


def loses_updates(recipe: Recipe, is_split: bool) -> bool:
    """Whether `LOST_UPDATES` is true of a run: at usual learning rates, a step is below a bfloat16 weight's last bit.

    (Mixed Precision Training, arXiv 1710.03740, section 3.1.) Adapters are float32.

    Args:
        is_split: DeepSpeed or FSDP trains.
    """
    return recipe.dtype == "bfloat16" and recipe.lora is None and not is_split


def load_recipe(path: Path, kind: type[R], overrides: Sequence[str] = ()) -> R:
    """Read a recipe and apply `key=value` overrides, in order.

    Raises:
        SettingError: the file cannot be read, a key is unknown, or a value makes no sense.
    """
    content = _read(path, ())
    for override in overrides:
        _apply(content, override)
    return parse_recipe(content, kind, str(path))


def parse_recipe(content: dict[str, Any], kind: type[R], name: str = "recipe") -> R:
    """A recipe from its content.

    Raises:
        SettingError: a key is unknown, or a value makes no sense.
    """
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise SettingError(f"{name}: {explain(error, kind)}") from error


def _read(path: Path, within: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in within:
        raise SettingError(f"{path}: its base leads back to itself; take the line out")
    try:
        text = read_small(path, _MOST_BYTES)
    except (OSError, ValueError) as error:
        raise SettingError(f"{path}: cannot be read ({error}); give the path of a recipe") from error
    try:
        content = parse_yaml(text)
    except ValueError as error:
        raise SettingError(f"{path}: not YAML of a recipe ({error})") from error
    if not isinstance(content, dict):
        raise SettingError(f"{path}: a recipe is a mapping of keys to values")
    base = content.pop("base", None)
    if base is None:
        return content
    if not isinstance(base, str):
        raise SettingError(f"{path}: base is {base!r}; give the path of another recipe")
    if "\0" in base or len(base) > _LONGEST_NAME:
        raise SettingError(f"{path}: base {base[:60]!r}... is no name of a file; give the path of another recipe")
    below = path.parent / base
    if not os.path.isfile(below):
        try:
            below = find(base).path
        except SettingError as error:
            raise SettingError(f"{path}: base {error}") from error
    return _merged(_read(below, (*within, path.resolve())), content)


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Mappings are merged key by key; anything else, lists too, is replaced."""
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(below.get(key), dict)
        merged[key] = _merged(below[key], value) if both else value
    return merged


def _apply(content: dict[str, Any], override: str) -> None:
    key, sign, text = override.partition("=")
    if not sign or not key.strip():
        raise SettingError(f"--set {override}: write key=value, such as --set learning_rate=1e-5")
    try:
        value = parse_yaml(text)
    except ValueError as error:
        raise SettingError(f"--set {override}: the value is not YAML ({error})") from error
    place: Any = content
    *parents, last = key.strip().split(".")
    for part in parents:
        place = _item(place, part, override, make=True)
    if isinstance(place, list):
        _item(place, last, override, make=False)
        place[int(last)] = value
    else:
        place[last] = value


def _item(place: Any, part: str, override: str, make: bool) -> Any:
    if isinstance(place, list):
        if not part.isdecimal() or int(part) >= len(place):
            raise SettingError(f"--set {override}: {part!r} is no number of an entry (there are {len(place)})")
        return place[int(part)]
    if make and (part not in place or place[part] is None):
        place[part] = {}
    if not isinstance(place[part], (dict, list)):
        raise SettingError(f"--set {override}: {part} is a value and has no keys of its own")
    return place[part]
