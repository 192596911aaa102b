"""The beginning and the end of a run: from a recipe to all that training needs, from weights to a model folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path

from videoreasoner.errors import Stopped
from videoreasoner.training.data.dataset import RowDataset
from videoreasoner.training.data.examples import example_maker
from videoreasoner.training.data.sampler import RowSampler, total_steps
from videoreasoner.training.data.sources import read_data
from videoreasoner.training.recipe import Recipe
from videoreasoner.training.runtime.adapters import load_trained_model, merged_model
from videoreasoner.training.runtime.arguments import check_optimizer, has_fsdp, training_arguments
from videoreasoner.training.runtime.folder import RunFolder
from videoreasoner.training.runtime.held_out import HeldOutSampler
from videoreasoner.training.runtime.hub import push_model
from videoreasoner.training.runtime.identity import run_identity
from videoreasoner.training.runtime.interruption import Interruption
from videoreasoner.training.runtime.metrics_file import MetricsFile
from videoreasoner.training.runtime.progress import TrainingProgress
from videoreasoner.training.runtime.trainer import TrainingRun, TreeTrainer
from videoreasoner.utils.terminal import say


def prepare(
    recipe: Recipe,
    overwrite: bool,
    max_target_length: int | None,
    steps_per_rollout: int = 1,
    reward_sources: Mapping[str, str] | None = None,
) -> TrainingRun:
    """All parts of a run. Nothing is written except an empty output folder; `train` claims it.

    Args:
        overwrite: begin again in a folder that holds another run.
        max_target_length: see `ExampleMaker`.
        steps_per_rollout: optimizer steps that learn from the same rows.
        reward_sources: see `run_identity`.

    Raises:
        VideoReasonerError: the recipe cannot be run here; the message says why.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    args = training_arguments(recipe)
    step_rows = args.train_batch_size * args.gradient_accumulation_steps * args.world_size

    data = read_data(recipe)
    lettered = sum(row.had_letters for rows in (*data.sources, *data.held_out) for row in rows.rows)
    if lettered and args.process_index == 0:
        say(f"note: the letters that the options of {lettered} rows bring along are left out", to_stderr=True)
    sampler = RowSampler([len(rows) for rows in data.sources], [rows.weight for rows in data.sources], recipe.seed)
    if recipe.max_steps < 0:
        args.max_steps = total_steps(recipe.num_train_epochs, sampler.epoch_rows, step_rows) * steps_per_rollout

    folder = RunFolder(Path(recipe.output_dir))
    identity = run_identity(recipe, data.digests, step_rows, args.max_steps, reward_sources)
    folder.prepare(identity, overwrite, recipe.begins_from)
    if args.process_index == 0:
        # Asked here, before gigabytes are loaded; `train` holds it.
        with folder.locked():
            pass
    resume = folder.resume_point(recipe.resume_from_checkpoint, overwrite, args.max_steps, steps_per_rollout)

    checkpoint, model = load_trained_model(recipe, has_fsdp(args))
    check_optimizer(args, model)

    # transformers skips one batch of rows for each finished step. Where several steps share their rows that is too
    # much, so there the data set itself begins behind the rows of the finished steps.
    first = 0 if steps_per_rollout == 1 else resume.step // steps_per_rollout * step_rows
    args.ignore_data_skip = steps_per_rollout > 1
    maker = example_maker(recipe, checkpoint, max_target_length)
    # transformers expects as many batches as steps, also where several steps share one.
    dataset = RowDataset(data.sources, maker, sampler, first, args.max_steps * step_rows)
    known = {(item.source, item.row): item for item in (*data.skipped, *resume.skipped)}
    return TrainingRun(
        recipe=recipe,
        args=args,
        folder=folder,
        identity=identity,
        overwrite=overwrite,
        checkpoint=checkpoint,
        model=model,
        sources=data.sources,
        held_out=data.held_out,
        dataset=dataset,
        skipped=list(known.values()),
        resume=resume,
        step_rows=step_rows / steps_per_rollout,
        steps_per_rollout=steps_per_rollout,
    )


def train(trainer: TreeTrainer) -> Path:
    """Train, from the last checkpoint if there is one, and put the model into the output folder, which is returned.

    Raises:
        Stopped: Ctrl-C was pressed while training; the message says how to go on.
        TrainingError: the run cannot continue, the model cannot be written or uploaded, or another run is in the
            folder.
    """
    run = trainer.run
    # The processes of one launch share the run, so the first one keeps other runs out for all.
    with run.folder.locked() if run.args.process_index == 0 else nullcontext():
        _train(trainer)
    return run.folder.path


def _train(trainer: TreeTrainer) -> None:
    run = trainer.run
    progress, interruption = TrainingProgress(run), Interruption(trainer)
    # In this order: a line of metrics is written with each checkpoint, also with that of an interruption.
    for callback in (HeldOutSampler(trainer), interruption, MetricsFile(run.folder), progress):
        trainer.add_callback(callback)
    with run.args.main_process_first(desc="claiming the output folder"):
        if run.args.should_save:
            run.folder.begin(run.identity, run.overwrite, run.resume, run.skipped)
    try:
        with interruption.listening():
            trainer.train(resume_from_checkpoint=str(run.resume.checkpoint) if run.resume.checkpoint else None)
        if interruption.step is not None:
            raise KeyboardInterrupt
    except KeyboardInterrupt as stop:
        last = run.folder.last_checkpoint()
        onward = f"the same command goes on from {last}" if last else "there is no checkpoint yet"
        raise Stopped(f"stopped at step {trainer.state.global_step} of {run.args.max_steps}; {onward}") from stop
    finally:
        progress.close()
    files = finish(trainer)
    if run.recipe.push_to_hub and run.args.process_index == 0:
        say(f"uploaded to {push_model(run.recipe, run.folder.path, files)}", to_stderr=True)


def finish(trainer: TreeTrainer) -> list[str]:
    """Put the trained model into the output folder; with adapters, merged into the weights and beside them.

    Returns:
        The model's files, relative to the folder; none in processes that write nothing.

    Raises:
        TrainingError: it cannot be written.
    """
    run = trainer.run
    staged = run.folder.staging
    files: list[str] = []
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
            files = run.folder.publish_model(staged)
    trainer.accelerator.wait_for_everyone()
    return files
