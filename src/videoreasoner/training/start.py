"""The way into a run and out of it: from a recipe to all that training needs, from weights to a model folder."""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainingArguments

from videoreasoner.errors import SettingError, TrainingError
from videoreasoner.models.checkpoint import Checkpoint, load_checkpoint
from videoreasoner.training.adapters import add_adapters, merged_model, quantisation
from videoreasoner.training.cache import ArrayCache
from videoreasoner.training.dataset import Collator, Lessons, RowDataset
from videoreasoner.training.folder import RunFolder, run_identity
from videoreasoner.training.frames import ClipReader
from videoreasoner.training.metrics import MetricsFile
from videoreasoner.training.order import RowOrder, steps_in_all
from videoreasoner.training.progress import ProgressBar
from videoreasoner.training.recipe import LOST_UPDATES, Recipe, loses_updates
from videoreasoner.training.samples import OutputSampler
from videoreasoner.training.sources import read_sources
from videoreasoner.training.trainer import Run, TreeTrainer, check_skipped

# Fields of a recipe that go to transformers under their own names.
_PASSED_ON = (
    "max_steps", "per_device_train_batch_size", "gradient_accumulation_steps", "learning_rate", "lr_scheduler_type",
    "warmup_steps", "optim", "adam_beta1", "adam_beta2", "weight_decay", "max_grad_norm", "bf16",
    "gradient_checkpointing", "seed", "dataloader_num_workers", "logging_steps", "save_steps", "save_total_limit",
    "report_to", "run_name",
)  # fmt: skip
# Fields that our loop depends on.
_FIXED: dict[str, Any] = {
    "remove_unused_columns": False,
    "save_strategy": "steps",
    "eval_strategy": "no",
    "logging_strategy": "steps",
    "logging_nan_inf_filter": False,
    "disable_tqdm": True,
    "num_train_epochs": 1,
}
# Fields that our loss, our order of rows or our checkpoints would pass over in silence.
_WITHOUT_EFFECT = frozenset(
    {
        "label_smoothing_factor", "train_sampling_strategy", "data_seed", "ignore_data_skip", "auto_find_batch_size",
        "load_best_model_at_end", "save_only_model", "per_device_eval_batch_size", "do_eval", "dataloader_drop_last",
    }
)  # fmt: skip


def training_arguments(recipe: Recipe) -> TrainingArguments:
    """transformers' settings for a recipe. Starts the process group where there are several processes.

    Raises:
        SettingError: `trainer` has a key that transformers does not know or that the recipe decides, or a value makes
            no sense.
    """
    known = {item.name for item in dataclasses.fields(TrainingArguments)}
    for name in recipe.trainer:
        if name in _FIXED or name in _WITHOUT_EFFECT:
            raise SettingError(f"trainer.{name}: would have no effect here; take it out")
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
            raise SettingError(f"there is no key trainer.{name}; did you mean trainer.{near[0]}?")
    values = {name: getattr(recipe, name) for name in _PASSED_ON}
    has_gpu = torch.cuda.is_available()
    if recipe.gradient_checkpointing:
        # The kind that lets frozen parts, adapters and distributed wrappers be.
        values["gradient_checkpointing_kwargs"] = {"use_reentrant": False}
    values |= {"use_cpu": not has_gpu, "dataloader_pin_memory": has_gpu, "ddp_find_unused_parameters": False}
    try:
        args = TrainingArguments(output_dir=recipe.output_dir, **{**values, **_FIXED, **recipe.trainer})
    except (ValueError, TypeError, ImportError) as error:
        raise SettingError(f"the recipe cannot be run here: {error}") from error
    if args.n_gpu > 1:
        # One process drives one GPU; transformers would split each batch over all of them instead.
        args._n_gpu = 1
    return args


def load_model(recipe: Recipe) -> Checkpoint:
    """The model that training starts from, on the CPU, from where transformers moves it; quantised, on its GPU.

    Raises:
        CheckpointError, SettingError, MissingExtraError: it cannot be loaded; the message says why.
    """
    unknown = set(recipe.settings) & {"training"}
    if unknown:
        raise SettingError("settings.training: is written by training itself")
    quantised = quantisation(recipe.lora)
    return load_checkpoint(
        recipe.model_name_or_path,
        device="cpu" if quantised is None else f"cuda:{torch.cuda.current_device()}",
        dtype=getattr(torch, recipe.dtype),
        quantization_config=quantised,
        **recipe.settings,
    )


def clip_reader(recipe: Recipe, checkpoint: Checkpoint) -> ClipReader:
    """Films as the checkpoint looks at them.

    Raises:
        SettingError: the folder of the cache cannot be used.
    """
    cache = None
    if recipe.frame_cache_dir is not None:
        cache = ArrayCache(Path(recipe.frame_cache_dir), int(recipe.frame_cache_gb * 1e9))
    return ClipReader(checkpoint.settings, checkpoint.patches, recipe.decode_time_limit_s, cache)


def lessons_for(recipe: Recipe, checkpoint: Checkpoint) -> Lessons:
    """How rows become examples under a recipe."""
    return Lessons(
        checkpoint.encoder,
        clip_reader(recipe, checkpoint),
        recipe.tasks,
        recipe.max_length,
        recipe.max_target_length,
        checkpoint.tokens_per_second,
        recipe.shared_prompt,
    )


def prepare(
    recipe: Recipe,
    overwrite: bool = False,
    make_dataset: Callable[..., Any] = RowDataset,
    collator: Any = None,
    steps_per_batch: int = 1,
) -> Run:
    """Everything that a run is made of. Nothing is written before all of it has been found to be usable.

    Args:
        overwrite: begin anew in a folder that holds another run.
        make_dataset, collator: for kinds of training with examples of their own; see `RowDataset`, `Collator`.
        steps_per_batch: optimizer steps that learn from the same rows.

    Raises:
        VideoReasonerError: the recipe cannot be run here; the message says why.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    args = training_arguments(recipe)
    _check_master_weights(recipe, args)
    sources = read_sources(recipe.data, recipe.fields, recipe.video_root)
    skipped = [item for rows in sources for item in rows.skipped]
    check_skipped(skipped, sources, recipe.max_skipped_fraction)
    folder = RunFolder(Path(recipe.output_dir))
    step_rows = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    identity = run_identity(recipe, {rows.name: rows.digest for rows in sources}, step_rows)
    if not overwrite:
        folder.check(identity)
    checkpoint = load_model(recipe)
    order = RowOrder([len(rows) for rows in sources], [rows.weight for rows in sources], recipe.seed)
    if recipe.max_steps < 0:
        args.max_steps = steps_in_all(recipe.num_train_epochs, order.epoch_rows, step_rows) * steps_per_batch
    lessons = lessons_for(recipe, checkpoint)
    # As many batches as steps, whatever number of them is drawn: it is what transformers counts on.
    dataset = make_dataset(sources, lessons, order, args.max_steps * step_rows)
    checkpoint.model.model.visual.requires_grad_(not recipe.freeze_vision)
    model = add_adapters(checkpoint.model, recipe.lora, checkpoint.encoder, recipe.seed)
    with args.main_process_first(desc="claiming the output folder"):
        if args.should_save:
            folder.claim(identity, overwrite)
    resume_from = starting_point(folder, recipe, args.max_steps)
    earlier = folder.read_skipped() if resume_from is not None else []
    known = {(item.source, item.row): item for item in (*skipped, *earlier)}
    if args.should_save:
        folder.rewind(_step_of(resume_from, folder))
        folder.write_skipped(list(known.values()))
    return Run(
        recipe,
        args,
        folder,
        checkpoint,
        model,
        sources,
        dataset,
        collator or Collator(checkpoint.encoder, lessons.reader),
        list(known.values()),
        resume_from,
        step_rows / steps_per_batch,
    )


def _check_master_weights(recipe: Recipe, args: TrainingArguments) -> None:
    launched = any(os.environ.get(f"ACCELERATE_USE_{name}") == "true" for name in ("DEEPSPEED", "FSDP"))
    if loses_updates(recipe, launched or bool(args.deepspeed or args.fsdp)):
        raise SettingError(LOST_UPDATES)


def starting_point(folder: RunFolder, recipe: Recipe, max_steps: int) -> Path | None:
    """The checkpoint to go on from; None: begin with the weights of `model_name_or_path`.

    In this order:
    1. the run's own last checkpoint: the same command goes on where it stopped;
    2. `resume_from_checkpoint`: goes on from a checkpoint of another folder, optimizer and data position included;
    3. the initial weights.

    Raises:
        TrainingError: the given checkpoint holds no state of a run, or leaves no step to take.
    """
    own = folder.last_checkpoint()
    if own is not None or recipe.resume_from_checkpoint is None:
        return own
    given = Path(recipe.resume_from_checkpoint)
    state = given / "trainer_state.json"
    if not state.is_file():
        raise TrainingError(
            f"resume_from_checkpoint {given}: holds no trainer_state.json; give a checkpoint-N folder of a run, "
            "or use the folder as model_name_or_path to begin from its weights"
        )
    done = json.loads(state.read_text(encoding="utf-8"))["global_step"]
    if done >= max_steps:
        raise TrainingError(
            f"resume_from_checkpoint {given}: stands at step {done}, and this run ends at step {max_steps}; raise "
            "max_steps, or use the folder as model_name_or_path to begin from its weights"
        )
    return given


def progress(run: Run, held_out: str = "") -> list[TrainerCallback]:
    """What watches a run: sampled outputs, metrics.jsonl, and the bar.

    Args:
        held_out: begins the names of what is found in sampled outputs, where training has figures of the same names.
    """
    return [OutputSampler(run, held_out), MetricsFile(run.folder), ProgressBar(run)]


def carry_out(trainer: TreeTrainer) -> Path:
    """Train from where the run stands to its end, and put the model into the output folder, which is returned.

    Raises:
        TrainingError: the run cannot go on, or the model cannot be written.
    """
    run = trainer.run
    try:
        trainer.train(resume_from_checkpoint=str(run.resume_from) if run.resume_from else None)
    finally:
        for callback in trainer.callback_handler.callbacks:
            if isinstance(callback, ProgressBar):
                callback.close()
    finish(trainer)
    return run.folder.path


def finish(trainer: TreeTrainer) -> None:
    """Put the trained model into the output folder; with adapters, merged into the weights and beside them.

    Raises:
        TrainingError: it cannot be written.
    """
    run = trainer.run
    staged = run.folder.staging
    try:
        if run.args.should_save:
            shutil.rmtree(staged, ignore_errors=True)
        trainer.accelerator.wait_for_everyone()
        target = staged / "adapter" if run.recipe.lora else staged
        trainer.save_model(str(target))
        trainer.accelerator.wait_for_everyone()
        if run.args.should_save:
            if run.recipe.lora:
                merged_model(run.recipe, target).save_pretrained(staged)
                trainer.save_beside(staged)
            run.folder.publish_model(staged)
    except OSError as error:
        last = run.folder.last_checkpoint()
        raise TrainingError(
            f"{run.folder.path}: the trained model cannot be saved ({error.strerror or error}); {last} is whole. "
            "Free some room, and start the same command again"
        ) from error
    trainer.accelerator.wait_for_everyone()


def _step_of(resume_from: Path | None, folder: RunFolder) -> int:
    """The step that the folder's own lines are kept up to."""
    if resume_from is None or resume_from.parent != folder.path:
        return -1
    return int(resume_from.name.rpartition("-")[2])
