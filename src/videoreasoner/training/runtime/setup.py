"""The way into a run and out of it: from a recipe to all that training needs, from weights to a model folder."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import torch

from videoreasoner.errors import SettingError, TrainingError
from videoreasoner.models.checkpoint import Checkpoint, load_checkpoint
from videoreasoner.training.data.cache import ArrayCache
from videoreasoner.training.data.dataset import RowDataset
from videoreasoner.training.data.examples import ExampleMaker
from videoreasoner.training.data.frames import ClipReader
from videoreasoner.training.data.sampler import RowSampler, total_steps
from videoreasoner.training.data.sources import read_sources
from videoreasoner.training.recipe import SPLIT_TIED, Recipe
from videoreasoner.training.runtime.adapters import add_adapters, merged_model, quantisation
from videoreasoner.training.runtime.arguments import check_launch, check_optimizer, has_fsdp, training_arguments
from videoreasoner.training.runtime.folder import RunFolder, run_identity
from videoreasoner.training.runtime.held_out import HeldOutSampler, read_held_out
from videoreasoner.training.runtime.metrics_file import MetricsFile
from videoreasoner.training.runtime.progress import TrainingProgress
from videoreasoner.training.runtime.trainer import TrainingRun, TreeTrainer, check_skipped


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
    """Videos as the checkpoint looks at them.

    Raises:
        SettingError: the folder of the cache cannot be used.
    """
    cache = None
    if recipe.frame_cache_dir is not None:
        cache = ArrayCache(Path(recipe.frame_cache_dir), int(recipe.frame_cache_gb * 1e9))
    return ClipReader(checkpoint.settings, checkpoint.patches, recipe.decode_time_limit_s, cache)


def prepare(recipe: Recipe, overwrite: bool, max_target_length: int | None, steps_per_rollout: int = 1) -> TrainingRun:
    """All parts of a run. Nothing is written except an empty output folder; `train` claims it.

    Args:
        overwrite: begin again in a folder that holds another run.
        max_target_length: see `ExampleMaker`.
        steps_per_rollout: optimizer steps that learn from the same rows.

    Raises:
        VideoReasonerError: the recipe cannot be run here; the message says why.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    args = training_arguments(recipe)
    check_launch(recipe, args)
    sources = read_sources(recipe.data, recipe.row_fields, recipe.video_root)
    skipped = [item for rows in sources for item in (*rows.skipped, *rows.absent)]
    check_skipped(skipped, sources, recipe.max_skipped_fraction)
    held_out = read_held_out(recipe)
    folder = RunFolder(Path(recipe.output_dir))
    step_rows = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    identity = run_identity(recipe, {rows.name: rows.digest for rows in sources}, step_rows)
    if overwrite:
        _check_not_within(folder, recipe)
    else:
        folder.check(identity)
    folder.make()
    checkpoint = load_model(recipe)
    if recipe.lora and has_fsdp(args) and checkpoint.model.config.tie_word_embeddings:
        raise SettingError(SPLIT_TIED)
    sampler = RowSampler([len(rows) for rows in sources], [rows.weight for rows in sources], recipe.seed)
    if recipe.max_steps < 0:
        args.max_steps = total_steps(recipe.num_train_epochs, sampler.epoch_rows, step_rows) * steps_per_rollout
    checkpoint.model.model.visual.requires_grad_(not recipe.freeze_vision)
    model = add_adapters(checkpoint.model, recipe.lora, checkpoint.encoder, recipe.seed)
    check_optimizer(args, model)
    resume_from = starting_point(None if overwrite else folder.last_checkpoint(), recipe, args.max_steps)
    maker = example_maker(recipe, checkpoint, max_target_length)
    # transformers skips one batch of rows for each finished step. Where several steps share their rows that is too
    # much, so there the data set itself begins behind the rows of the finished steps.
    first = 0 if steps_per_rollout == 1 else rows_done(resume_from, steps_per_rollout, step_rows)
    args.ignore_data_skip = steps_per_rollout > 1
    # As many batches as steps, since transformers counts on that, whatever number of them is read.
    dataset = RowDataset(sources, maker, sampler, first, args.max_steps * step_rows)
    # Skips found before the run were found again; keep those of the run up to the step where it resumes.
    own_step = _own_step(resume_from, folder)
    earlier = [item for item in folder.read_skipped() if 0 < item.step <= own_step] if own_step > 0 else []
    known = {(item.source, item.row): item for item in (*skipped, *earlier)}
    return TrainingRun(
        recipe=recipe,
        args=args,
        folder=folder,
        identity=identity,
        overwrite=overwrite,
        checkpoint=checkpoint,
        model=model,
        sources=sources,
        held_out=held_out,
        dataset=dataset,
        skipped=list(known.values()),
        resume_from=resume_from,
        step_rows=step_rows / steps_per_rollout,
        steps_per_rollout=steps_per_rollout,
    )


def example_maker(recipe: Recipe, checkpoint: Checkpoint, max_target_length: int | None) -> ExampleMaker:
    """How the rows of a recipe become examples for a checkpoint.

    Args:
        max_target_length: see `ExampleMaker`.
    """
    return ExampleMaker(
        checkpoint.encoder,
        clip_reader(recipe, checkpoint),
        recipe.row_fields,
        recipe.max_length,
        max_target_length,
        checkpoint.tokens_per_second,
    )


def rows_done(resume_from: Path | None, steps_per_rollout: int, step_rows: int) -> int:
    """The rows of the stream that the steps up to a checkpoint took.

    Raises:
        TrainingError: the checkpoint lies between two updates on the same rows.
    """
    if resume_from is None:
        return 0
    done = _global_step(resume_from)
    if done % steps_per_rollout:
        raise TrainingError(
            f"{resume_from}: is between two of the {steps_per_rollout} updates on a batch (num_iterations); "
            "give a checkpoint whose step is a multiple of it"
        )
    return done // steps_per_rollout * step_rows


def _global_step(checkpoint: Path) -> int:
    return int(json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))["global_step"])


def _check_not_within(folder: RunFolder, recipe: Recipe) -> None:
    """Refuse to remove what the run is to begin from."""
    for name in ("model_name_or_path", "resume_from_checkpoint", "ref_model"):
        value = getattr(recipe, name, None)
        if value and folder.clears(Path(value)):
            raise SettingError(
                f"{name} {value}: is of output_dir, and --overwrite would remove it; give another output_dir"
            )


def starting_point(own: Path | None, recipe: Recipe, max_steps: int) -> Path | None:
    """The checkpoint to go on from; None: begin with the weights of `model_name_or_path`.

    In this order:
    1. the run's own last checkpoint: the same command goes on where it stopped;
    2. `resume_from_checkpoint`: goes on from a checkpoint of another folder, optimizer and data position included;
    3. the initial weights.

    Args:
        own: the last checkpoint in the run's folder.

    Raises:
        TrainingError: the given checkpoint holds no state of a run, or leaves no step to take.
    """
    if own is not None or recipe.resume_from_checkpoint is None:
        return own
    given = Path(recipe.resume_from_checkpoint)
    state = given / "trainer_state.json"
    if not state.is_file():
        raise TrainingError(
            f"resume_from_checkpoint {given}: holds no trainer_state.json; give a checkpoint-N folder of a run, "
            "or use the folder as model_name_or_path to begin from its weights"
        )
    done = _global_step(given)
    if done >= max_steps:
        raise TrainingError(
            f"resume_from_checkpoint {given}: stands at step {done}, and this run ends at step {max_steps}; raise "
            "max_steps, or use the folder as model_name_or_path to begin from its weights"
        )
    return given


def train(trainer: TreeTrainer) -> Path:
    """Train from where the run stands to its end, and put the model into the output folder, which is returned.

    Raises:
        TrainingError: the run cannot go on, or the model cannot be written.
    """
    run = trainer.run
    progress = TrainingProgress(run)
    for callback in (HeldOutSampler(trainer), MetricsFile(run.folder), progress):
        trainer.add_callback(callback)
    with run.args.main_process_first(desc="claiming the output folder"):
        if run.args.should_save:
            run.folder.claim(run.identity, run.overwrite)
            run.folder.rewind(_own_step(run.resume_from, run.folder))
            run.folder.write_skipped(run.skipped)
    try:
        trainer.train(resume_from_checkpoint=str(run.resume_from) if run.resume_from else None)
    finally:
        progress.close()
    finish(trainer)
    return run.folder.path


def finish(trainer: TreeTrainer) -> None:
    """Put the trained model into the output folder; with adapters, merged into the weights and beside them.

    Raises:
        TrainingError: it cannot be written.
    """
    run = trainer.run
    staged = run.folder.staging
    with run.folder.saving(f"{run.folder.path}: the trained model", run.args.should_save):
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
    trainer.accelerator.wait_for_everyone()


def _own_step(resume_from: Path | None, folder: RunFolder) -> int:
    """The step that the folder's own lines are kept up to; -1: none are."""
    if resume_from is None or resume_from.parent != folder.path:
        return -1
    return int(resume_from.name.rpartition("-")[2])
