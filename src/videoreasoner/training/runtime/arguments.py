"""transformers' settings for a recipe, checked before a run where transformers would fail in the middle of it."""

from __future__ import annotations

import dataclasses
import difflib
import os
from typing import Any

import torch
from transformers import Trainer, TrainingArguments, get_scheduler
from transformers.integrations import get_reporting_integration_callbacks, is_deepspeed_zero3_enabled
from transformers.trainer_utils import SchedulerType
from transformers.training_args import OptimizerNames

from videoreasoner.errors import SettingError
from videoreasoner.training.recipe import LOST_UPDATES, SPLIT_QUANTISED, Recipe, loses_updates
from videoreasoner.training.runtime.hub import check_hub
from videoreasoner.utils.renamed import known_name

# Fields of a recipe that transformers gets under the same names.
_PASSED_ON = (
    "max_steps", "per_device_train_batch_size", "gradient_accumulation_steps", "learning_rate", "lr_scheduler_type",
    "warmup_steps", "optim", "adam_beta1", "adam_beta2", "weight_decay", "max_grad_norm", "bf16",
    "seed", "dataloader_num_workers", "logging_steps", "save_steps", "save_total_limit", "report_to", "run_name",
)  # fmt: skip
# transformers 5.24 renamed these; a recipe may use either name of the second.
_CHECKPOINTING = known_name(TrainingArguments, "activation_checkpointing", "gradient_checkpointing")
_OPTIONS = f"{_CHECKPOINTING}_kwargs"
_NAMES_OF_OPTIONS = ("gradient_checkpointing_kwargs", "activation_checkpointing_kwargs")
# Values that the training loop depends on.
_FIXED: dict[str, Any] = {
    "remove_unused_columns": False,
    "save_strategy": "steps",
    "eval_strategy": "no",
    "logging_strategy": "steps",
    "logging_nan_inf_filter": False,
    "disable_tqdm": True,
    "num_train_epochs": 1,
}
# Fields of transformers that our loss, order of rows or checkpoints would ignore.
_WITHOUT_EFFECT = frozenset(
    {
        "label_smoothing_factor", "train_sampling_strategy", "data_seed", "ignore_data_skip", "auto_find_batch_size",
        "load_best_model_at_end", "save_only_model", "per_device_eval_batch_size", "do_eval", "dataloader_drop_last",
        "hub_strategy", "hub_token", "hub_always_push", "hub_revision",
    }
)  # fmt: skip


def training_arguments(recipe: Recipe) -> TrainingArguments:
    """transformers' settings for a recipe. Starts the process group where there are several processes.

    Raises:
        SettingError: `trainer` has a key that transformers does not know or that the recipe decides, a value makes no
            sense, or something that it names is not installed.
    """
    check_names(recipe)
    values = {name: getattr(recipe, name) for name in _PASSED_ON}
    has_gpu = torch.cuda.is_available()
    values[_CHECKPOINTING] = recipe.gradient_checkpointing
    if recipe.gradient_checkpointing:
        # The variant that works with frozen weights, adapters and distributed wrappers.
        values[_OPTIONS] = {"use_reentrant": False}
    values |= {"use_cpu": not has_gpu, "dataloader_pin_memory": has_gpu, "ddp_find_unused_parameters": False}
    # Under the old name, transformers would ignore them beside ours under the new one.
    given = {_OPTIONS if name in _NAMES_OF_OPTIONS else name: value for name, value in recipe.trainer.items()}
    try:
        args = TrainingArguments(output_dir=recipe.output_dir, **{**values, **_FIXED, **given})
    except (ValueError, TypeError, ImportError) as error:
        raise SettingError(f"the recipe cannot be run here: {error}") from error
    check_launch(recipe, args)
    _check_schedule(args)
    if args.n_gpu > 1:
        # One process drives one GPU; transformers would split each batch over all of them instead.
        args._n_gpu = 1
    return args


def check_names(recipe: Recipe) -> None:
    """Refuse names that transformers does not know or cannot use here. A dry run checks them as a run does.

    Raises:
        SettingError: a key of `trainer` is unknown or would have no effect, there is no such optimizer or schedule, or
            a tracker is unknown or not installed; also see `check_hub`.
    """
    check_hub(recipe)
    known = {item.name for item in dataclasses.fields(TrainingArguments)} | set(_NAMES_OF_OPTIONS)
    for name in recipe.trainer:
        if name == "activation_checkpointing":
            raise SettingError(f"trainer.{name}: set it as gradient_checkpointing in the recipe")
        if name in _FIXED or name in _WITHOUT_EFFECT:
            raise SettingError(f"trainer.{name}: would have no effect here; remove it")
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
            raise SettingError(f"there is no key trainer.{name}; did you mean trainer.{near[0]}?")
    for field, value, choices in (
        ("optim", recipe.optim, OptimizerNames),
        ("lr_scheduler_type", recipe.lr_scheduler_type, SchedulerType),
    ):
        names = [str(choice.value) for choice in choices]
        if value not in names:
            near = difflib.get_close_matches(value, names, n=1, cutoff=0.0)
            raise SettingError(f"{field}: there is no {value!r}; did you mean {near[0]}?")
    trackers = [recipe.report_to] if isinstance(recipe.report_to, str) else recipe.report_to
    for name in trackers:
        if name in ("none", "all"):
            continue
        try:
            # transformers would make it after the run has begun.
            get_reporting_integration_callbacks([name])[0]()
        except (ValueError, ImportError, RuntimeError) as error:
            raise SettingError(
                f"report_to {name}: cannot be used here ({' '.join(str(error).split())}); install it, or name another"
            ) from error


def check_launch(recipe: Recipe, args: TrainingArguments) -> None:
    """Refuse a recipe that contradicts the way in which the processes were launched.

    Raises:
        SettingError: bfloat16 weights without float32 ones beside them, DeepSpeed in another precision than the recipe,
            FSDP with weights that only the first process loads, or quantised weights that would be split.
    """
    has_deepspeed = bool(args.deepspeed) or launched_with("DEEPSPEED")
    if loses_updates(recipe, has_deepspeed or has_fsdp(args)):
        raise SettingError(LOST_UPDATES)
    if has_deepspeed and os.environ.get("ACCELERATE_MIXED_PRECISION") == "bf16" and not args.bf16:
        raise SettingError(
            "bf16: false, and the launch profile has DeepSpeed compute in bfloat16 (mixed_precision); set bf16=true"
        )
    if recipe.lora is not None and recipe.lora.load_in_4bit and has_split_weights(args):
        raise SettingError(SPLIT_QUANTISED)
    if launched_with("FSDP") and os.environ.get("FSDP_CPU_RAM_EFFICIENT_LOADING") == "true":
        raise SettingError(
            "fsdp_cpu_ram_efficient_loading: event tokens are added in every process, so each has to load the weights; "
            "set it to false in the launch profile, as the shipped profile accelerate/fsdp2 does"
        )


def check_optimizer(args: TrainingArguments, model: Any) -> None:
    """Refuse an optimizer that cannot train a model; transformers would do so only after training has begun.

    Raises:
        SettingError: its package is not installed, or it is for other layers.
    """
    try:
        Trainer.get_optimizer_cls_and_kwargs(args, model)
    except (ValueError, ImportError, TypeError) as error:
        raise SettingError(f"optim {OptimizerNames(args.optim).value}: cannot be used here ({error})") from error


def has_fsdp(args: TrainingArguments) -> bool:
    """Whether FSDP splits the weights."""
    return bool(args.fsdp) or launched_with("FSDP")


def has_split_weights(args: TrainingArguments) -> bool:
    """Whether no process has all weights: FSDP, or ZeRO of stage 3."""
    return has_fsdp(args) or is_deepspeed_zero3_enabled()


def launched_with(name: str) -> bool:
    """Whether the profile of `accelerate launch` asks for it.

    Args:
        name: DEEPSPEED or FSDP.
    """
    return os.environ.get(f"ACCELERATE_USE_{name}") == "true"


def _check_schedule(args: TrainingArguments) -> None:
    """Make the schedule once and drop it: transformers would make it after a run has begun.

    Raises:
        SettingError: it cannot be made.
    """
    optimizer = torch.optim.SGD(torch.nn.Linear(1, 1).parameters(), lr=args.learning_rate)
    # A dictionary: the text that it may be given as has been read by now.
    more: Any = args.lr_scheduler_kwargs
    try:
        get_scheduler(args.lr_scheduler_type, optimizer, 1, 10, more)
    except (ValueError, TypeError) as error:
        raise SettingError(
            f"lr_scheduler_type {SchedulerType(args.lr_scheduler_type).value}: {error}; give what it needs as "
            "trainer.lr_scheduler_kwargs"
        ) from error
