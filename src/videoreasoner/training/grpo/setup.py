"""The way into a GRPO run: rewards, reference and queries for a recipe."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from videoreasoner.errors import QuestionError, RowError, SettingError, TrainingError, VideoError
from videoreasoner.models.checkpoint import Checkpoint, find_folder, load_checkpoint
from videoreasoner.models.positions import ClipTokens
from videoreasoner.retrieval.encoder import load_encoder
from videoreasoner.rows import Row
from videoreasoner.settings import Settings
from videoreasoner.tasks import Task
from videoreasoner.training.data.dataset import Lessons, Notes, RowDataset
from videoreasoner.training.data.queries import Query, QueryMaker
from videoreasoner.training.data.sampler import RowOrder
from videoreasoner.training.data.sources import Rows, Skipped
from videoreasoner.training.grpo.recipe import SPLIT_WEIGHTS, GrpoRecipe
from videoreasoner.training.grpo.retrieval_reward import KeyElementRetrieval
from videoreasoner.training.grpo.rewards import KEY_ELEMENT_RETRIEVAL, Rewards, load_rewards
from videoreasoner.training.grpo.trainer import GrpoTrainer
from videoreasoner.training.runtime.samples import has_split_weights
from videoreasoner.training.runtime.setup import carry_out, prepare, progress
from videoreasoner.training.runtime.trainer import Run
from videoreasoner.utils.processes import end_with_parent
from videoreasoner.video.isolated.file import GuardedVideoFile
from videoreasoner.video.patches import patchify


class QueryDataset(RowDataset):
    """Position of the stream -> query, or why there is none.

    Attributes:
        queries: how rows become queries.
        first: the position of the stream that index 0 stands for.
    """

    def __init__(
        self, sources: Sequence[Rows], lessons: Lessons, order: RowOrder, length: int, queries: QueryMaker
    ) -> None:
        super().__init__(sources, lessons, order, length)
        self.queries = queries
        self.first = 0

    def __getitem__(self, index: int) -> Query | Skipped:  # type: ignore[override]
        end_with_parent()
        rows, row = self.rows[self.order[self.first + index]]
        try:
            return self.queries.example(rows.name, row, row.video_path(rows.video_root))
        except (RowError, QuestionError, VideoError) as error:
            return Skipped(rows.name, row.id, str(error))


def collate_queries(items: Sequence[Query | Skipped]) -> dict[str, Any]:
    """One batch: its `queries`, and `notes` about them."""
    queries = [item for item in items if isinstance(item, Query)]
    notes = Notes(
        rows=[(query.source, query.row.id) for query in queries],
        skipped=[item for item in items if isinstance(item, Skipped)],
        clipped=sum(query.is_clipped for query in queries),
        reduced=sum(query.is_reduced for query in queries),
        decode_s=sum(query.decode_s for query in queries),
        tokens=sum(query.tokens for query in queries),
    )
    return {"queries": queries, "notes": notes}


def prepare_grpo(recipe: GrpoRecipe, overwrite: bool = False) -> GrpoTrainer:
    """A trainer for a recipe, ready to train.

    Raises:
        VideoReasonerError: the recipe cannot be run here; the message says why.
    """
    rewards = rewards_of(recipe)
    wanted = {task: rewards.fields(task) for task in recipe.tasks}

    def make_dataset(sources: Sequence[Rows], lessons: Lessons, order: RowOrder, length: int) -> QueryDataset:
        queries = QueryMaker(lessons.encoder, lessons.reader, wanted, recipe.max_length, lessons.tokens_per_second)
        return QueryDataset(sources, lessons, order, length, queries)

    run = prepare(recipe, overwrite, make_dataset, collate_queries, recipe.num_iterations)
    _go_on_with_data(run, recipe)
    reference = load_reference(recipe, run.checkpoint, run.args.device)
    smallest = filler(run.checkpoint, recipe.tasks[0])
    trainer = GrpoTrainer(run, recipe, rewards, reference, smallest, progress(run, "held_out/"))
    _check_weights_are_whole(trainer.accelerator)
    return trainer


def rewards_of(recipe: GrpoRecipe) -> Rewards:
    """The rewards that a recipe names.

    Raises:
        SettingError: one cannot be loaded, a task is concerned by none, or retrieval has no encoder.
        CheckpointError: the encoder cannot be loaded.
    """
    more = {}
    if KEY_ELEMENT_RETRIEVAL in recipe.rewards:
        settings = Settings.load(find_folder(recipe.model_name_or_path, weights=False)).changed(**recipe.settings)
        name = recipe.reward_encoder or settings.encoder
        if name in (None, "none"):
            raise SettingError(
                f"rewards: {KEY_ELEMENT_RETRIEVAL} needs a text-image encoder, and {recipe.model_name_or_path} names "
                "none; set reward_encoder"
            )
        # Before the process group is there; launchers say which GPU is this process's.
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"
        encoder = load_encoder(name, device)
        more[KEY_ELEMENT_RETRIEVAL] = KeyElementRetrieval(
            encoder, settings, partial(GuardedVideoFile, time_limit_s=recipe.decode_time_limit_s)
        )
    rewards = load_rewards(recipe.rewards, more)
    rewards.check_tasks(recipe.tasks)
    return rewards


def load_reference(recipe: GrpoRecipe, checkpoint: Checkpoint, device: torch.device) -> Any:
    """The frozen reference model: the weights that training starts from, or those that the recipe names.

    None without a divergence term, and with adapters: then the model without them is the reference. It is loaded anew
    and not copied, because a run that goes on has other weights by now.

    Raises:
        CheckpointError: it cannot be loaded.
        SettingError: it has another vocabulary.
    """
    if recipe.beta == 0 or recipe.lora is not None:
        return None
    name = recipe.ref_model or recipe.model_name_or_path
    reference = load_checkpoint(name, str(device), getattr(torch, recipe.dtype))
    ours, theirs = (c.encoder.tokenizer.get_vocab() for c in (checkpoint, reference))
    rows = [c.model.get_output_embeddings().weight.shape[0] for c in (checkpoint, reference)]
    if ours != theirs or rows[0] != rows[1]:
        differing = len(ours.items() ^ theirs.items())
        raise SettingError(
            f"ref_model {name}: its vocabulary is not the model's ({differing} entries differ, {rows[1]} rows against "
            f"{rows[0]}), so log-probabilities cannot be compared; name a model of the same tokenizer"
        )
    return reference.model.requires_grad_(False)


def filler(checkpoint: Checkpoint, task: Task) -> Query:
    """The smallest query there is: two black frames and a full stop. Nothing is learned from it."""
    side = checkpoint.patches.factor
    encoder = checkpoint.encoder
    return Query(
        source="",
        row=Row(id="filler", video="none", question="."),
        video="",
        duration_s=1.0,
        trunk=encoder.trunk([ClipTokens(1, 1, (0,))]),
        patches=patchify(torch.zeros(2, 3, side, side, dtype=torch.uint8), checkpoint.patches),
        question=encoder.question("."),
        prefixes={task: encoder.prefix(task)},
    )


def _check_weights_are_whole(accelerator: Any) -> None:
    """Refuse to sample from weights that are split over processes: every token would gather them all again.

    Raises:
        SettingError: FSDP, or ZeRO of stage 3.
    """
    if has_split_weights(accelerator.state):
        raise SettingError(SPLIT_WEIGHTS)


def _go_on_with_data(run: Run, recipe: GrpoRecipe) -> None:
    """Begin where the rows of the finished steps end: transformers would count one batch of rows a step.

    Raises:
        TrainingError: the steps end between two updates on a batch.
    """
    if recipe.num_iterations == 1 or run.resume_from is None:
        return
    done = json.loads((run.resume_from / "trainer_state.json").read_text(encoding="utf-8"))["global_step"]
    if done % recipe.num_iterations:
        raise TrainingError(
            f"{run.resume_from}: is between two of the {recipe.num_iterations} updates on a batch (num_iterations); "
            "give a checkpoint whose step is a multiple of it"
        )
    args = run.args
    rows = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    run.dataset.first = done // recipe.num_iterations * rows
    args.ignore_data_skip = True


def train_grpo(recipe: GrpoRecipe, overwrite: bool = False) -> Path:
    """Run a recipe, from where an earlier start of the same run stopped.

    Returns:
        The output folder, which then holds the trained model.

    Raises:
        VideoReasonerError: the recipe cannot be run here, or the run cannot go on; the message says why.
    """
    return carry_out(prepare_grpo(recipe, overwrite))
