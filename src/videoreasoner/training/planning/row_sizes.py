"""How many tokens the rows of a recipe have: known before a run, without weights and without decoding a video."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from videoreasoner.errors import QuestionError, RowError, SettingError, VideoError
from videoreasoner.rows import Row
from videoreasoner.training.data.examples import prefixes_and_targets, text_length
from videoreasoner.training.data.frames import ClipReader, VideoFacts, plan_within, tokens_per_pair
from videoreasoner.training.data.sampler import RowSampler, total_steps
from videoreasoner.training.data.sources import Rows, Skipped, read_held_out, read_source, read_sources
from videoreasoner.training.grpo.recipe import GrpoRecipe
from videoreasoner.training.planning.model import PlannedModel
from videoreasoner.training.recipe import Recipe
from videoreasoner.video.patches import PatchSettings, resized_size
from videoreasoner.video.sampling import PAIR

# More rows would add nothing, and every video has to be opened.
_MOST_ROWS = 200
# Where the rows are not known: tokens of the system text and of a long question with options.
_LONG_PROMPT = 512


@dataclass(frozen=True)
class RowSize:
    """Tokens of one row.

    Attributes:
        visual: of its frames.
        text: all others, targets included.
        targets: of each target; none in GRPO, where completions come on top.
    """

    visual: int
    text: int
    targets: tuple[int, ...]

    @property
    def total(self) -> int:
        return self.visual + self.text


@dataclass(frozen=True)
class PlannedData:
    """What is known of a recipe's rows.

    Attributes:
        missing: files that do not exist.
        sources: rows to train on of those that do.
        sizes: tokens of up to 200 of these rows.
        opened: how many of their videos could be opened.
        refused: the rows among these 200 that a run would skip.
        assumed: the row to plan for while files with rows to train on are missing, else None.
    """

    missing: list[str]
    sources: list[Rows]
    sizes: list[RowSize]
    opened: int
    refused: list[Skipped]
    assumed: RowSize | None

    @property
    def planned(self) -> list[RowSize]:
        """The rows that a device must have room for; at least one."""
        return self.sizes if self.assumed is None else [*self.sizes, self.assumed]

    @property
    def skipped_fraction(self) -> float:
        """Share of the rows that a run would skip, when all videos are like those that were opened."""
        usable, skipped = sum(map(len, self.sources)), sum(len(rows.skipped) for rows in self.sources)
        refused = usable * len(self.refused) / max(len(self.sizes) + len(self.refused), 1)
        return (skipped + refused) / max(usable + skipped, 1)

    def steps(self, recipe: Recipe, step_rows: int) -> int | None:
        """Optimizer steps of the run with that many rows each; None where that depends on files that are missing."""
        if recipe.max_steps > 0:
            return recipe.max_steps
        if self.assumed is not None:
            return None
        sampler = RowSampler([len(rows) for rows in self.sources], [rows.weight for rows in self.sources], recipe.seed)
        steps = total_steps(recipe.num_train_epochs, sampler.epoch_rows, step_rows)
        # Epochs count batches of rows, and GRPO may learn from each of them several times.
        return steps * recipe.num_iterations if isinstance(recipe, GrpoRecipe) else steps


def read_planned_data(recipe: Recipe, model: PlannedModel) -> PlannedData:
    """Read the rows to train on, as far as their files exist.

    Raises:
        RowError: all files exist, and none of their rows can be used.
        SettingError: `max_length` leaves no room for frames.
    """
    listed = [source.path for source in (*recipe.data, *recipe.eval_data) if source.path is not None]
    missing = [path for path in dict.fromkeys(listed) if not Path(path).exists()]
    there = [source for source in recipe.data if source.path not in missing]
    is_complete = len(there) == len(recipe.data)
    if not missing:
        read_held_out(recipe, needs_videos=False)
    if is_complete:
        sources = read_sources(there, recipe.row_fields, recipe.video_root, needs_videos=False)
    else:
        sources = [read_source(source, recipe.row_fields, recipe.video_root) for source in there]
    sizes, opened, refused = row_sizes(recipe, model, sources) if any(sources) else ([], 0, [])
    return PlannedData(missing, sources, sizes, opened, refused, None if is_complete else longest_row(recipe, model))


def longest_row(recipe: Recipe, model: PlannedModel) -> RowSize:
    """All frames at the largest size, a long question and the longest targets; fewer frames where `max_length` says so.

    Raises:
        SettingError: `max_length` leaves no room for frames.
    """
    targets = () if isinstance(recipe, GrpoRecipe) else (recipe.max_target_length,) * len(recipe.tasks)
    text = _LONG_PROMPT + sum(targets)
    pair = _largest_pair(model.patches)
    pairs = min(model.settings.frame_budget // PAIR, (recipe.max_length - text) // pair)
    if pairs < 1:
        raise SettingError(
            f"max_length {recipe.max_length}: {text} tokens of text and {pair} of two frames are more; raise it"
        )
    return RowSize(pairs * pair, text, targets)


def row_sizes(recipe: Recipe, model: PlannedModel, sources: Sequence[Rows]) -> tuple[list[RowSize], int, list[Skipped]]:
    """Tokens of up to 200 rows, evenly spread; how many of their videos could be opened; the rows that are refused.

    A video that does not exist counts as long enough for all frames, at the largest size.

    Raises:
        RowError: all of them are refused.
    """
    rows = [(source, row) for source in sources for row in source.rows]
    chosen = [rows[i] for i in np.linspace(0, len(rows) - 1, min(len(rows), _MOST_ROWS)).round().astype(int)]
    reader = ClipReader(model.settings, model.patches, recipe.decode_time_limit_s)
    sizes: list[RowSize] = []
    refused: list[Skipped] = []
    opened = 0
    for source, row in chosen:
        video = row.video_path(source.video_root)
        try:
            try:
                with reader.open(video) as opened_video:
                    facts = opened_video.facts
                opened += 1
            except VideoError:
                if os.path.exists(video):
                    raise
                facts = _assumed_facts(model, row)
            sizes.append(_row_size(recipe, model, row, facts))
        except (RowError, QuestionError, VideoError) as error:
            refused.append(Skipped(source.name, row.id, str(error)))
    if not sizes:
        first = refused[0]
        raise RowError(
            f"none of the {len(chosen)} rows looked at can be used; the first: {first.row} of {first.source}: "
            f"{first.reason}"
        )
    return sizes, opened, refused


def _largest_pair(patches: PatchSettings) -> int:
    """Most tokens of a pair of frames; see `PatchSettings` for a minimum above the maximum."""
    height, width = resized_size(patches.largest_side, patches.largest_side, patches)
    return max(patches.max_pixels, height * width) // patches.factor**2


def _assumed_facts(model: PlannedModel, row: Row) -> VideoFacts:
    side = model.patches.largest_side
    shortest = model.settings.frame_budget / model.settings.sparse_rate_fps
    return VideoFacts(row.duration or max([shortest, *(span.end_s for span in row.event or ())]), side, side)


def _row_size(recipe: Recipe, model: PlannedModel, row: Row, facts: VideoFacts) -> RowSize:
    encoder = model.encoder
    question = encoder.question(row.question, row.options or ())
    longest = None if isinstance(recipe, GrpoRecipe) else recipe.max_target_length
    prefixes, targets = prefixes_and_targets(row, recipe.row_fields, encoder, facts.duration_s, longest)
    text = text_length(question, {**prefixes, **targets}, encoder)
    plan = plan_within(facts, model.settings.sampling, model.patches, recipe.max_length - text)
    if plan is None:
        raise RowError(f"row {row.id}: no room for frames")
    return RowSize(len(plan) * tokens_per_pair(facts, model.patches), text, tuple(map(len, targets.values())))
