"""How many tokens the rows of a recipe have, known before a run: without weights, and without decoding a video."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from videoreasoner.errors import CheckpointError, QuestionError, RowError, SettingError, VideoError
from videoreasoner.models.checkpoint import SHIPPED, find_folder, is_hub_id
from videoreasoner.models.event_tokens import extend_tokenizer
from videoreasoner.models.prompt_encoder import PromptEncoder
from videoreasoner.rows import Row
from videoreasoner.settings import Settings
from videoreasoner.training.data.frames import ClipReader, VideoFacts, plan_within, tokens_a_pair
from videoreasoner.training.data.sampler import RowOrder, steps_in_all
from videoreasoner.training.data.sources import Rows, Skipped, read_source, read_sources
from videoreasoner.training.planning.shapes import PUBLISHED, ModelShape, config_shape, like_published, published_shape
from videoreasoner.training.recipe import Recipe, Source
from videoreasoner.training.runtime.samples import read_held_out
from videoreasoner.video.patches import PatchSettings
from videoreasoner.video.sampling import PAIR

# More rows than this tell nothing new, and every video has to be opened.
_ROWS_LOOKED_AT = 200
_CHARACTERS_A_TOKEN = 3.5
# Where the rows are not known: system text, question and options of a long one, in tokens.
_LONG_PROMPT = 512


TextTokens = Callable[[Row, float], tuple[int, tuple[int, ...]]]
"""(row, length of its video in seconds) -> its tokens of text in all, and those of each target among them."""


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
        missing: what to say of a folder that is not here and was planned for by its name; else empty.
    """

    shape: ModelShape
    settings: Settings
    patches: PatchSettings
    encoder: PromptEncoder | None
    missing: str = ""


def read_model(recipe: Recipe) -> Model:
    """The model of a recipe, from its folder or from the table of published ones.

    A folder that is not here, because the run that makes it is still to come, is planned for as the published model
    that its name begins with.

    Raises:
        CheckpointError: neither knows it.
        SettingError: the recipe's settings make no sense.
    """
    name = recipe.model_name_or_path
    is_here = Path(name).expanduser().is_dir() or (SHIPPED / name).is_dir()
    shape, missing = published_shape(name), ""
    if not is_hub_id(name) and (base := like_published(name)) is not None:
        shape, missing = PUBLISHED[base], f"NOT HERE: {name}; planned for as {base}, which its name begins with"
    if shape is not None and not is_here:
        settings = Settings().changed(**recipe.settings)
        patches = PatchSettings(min_pixels=settings.min_pixels, max_pixels=settings.max_pixels)
        return Model(shape, settings, patches, None, missing)
    folder = find_folder(name, weights=False)
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


@dataclass(frozen=True)
class Data:
    """What is known of a recipe's rows.

    Attributes:
        missing: files that are not there.
        sources: those of the rows to train on that are.
        sizes: tokens of rows of theirs.
        looked_into: how many videos of those rows could be opened.
        refused: rows looked at that the run would skip.
        assumed: the row to plan for while rows to train on are missing; None: they are all there.
    """

    missing: list[str]
    sources: list[Rows]
    sizes: list[RowSize]
    looked_into: int
    refused: list[Skipped]
    assumed: RowSize | None

    @property
    def planned(self) -> list[RowSize]:
        """The rows that a device must have room for; at least one."""
        return self.sizes if self.assumed is None else [*self.sizes, self.assumed]

    @property
    def counts(self) -> str:
        """How many rows can be used, in words."""
        if not self.sources:
            return "not known"
        skipped = sum(len(rows.skipped) for rows in self.sources)
        known = f"{sum(map(len, self.sources))} usable, {skipped} skipped"
        absent = sum(len(rows.absent) for rows in self.sources)
        if absent:
            known += f", videos of {absent} not here"
        return known if self.assumed is None else f"{known} in the files that are here"

    def notes(self, max_skipped_fraction: float) -> list[str]:
        """What is missing, what is assumed in its place, and what stands against the rows; a line each."""
        lines = [f"NOT HERE: {', '.join(self.missing)}; a real start stops there"] if self.missing else []
        looked_at = len(self.sizes) + len(self.refused)
        if self.refused:
            first = self.refused[0]
            lines.append(
                f"{len(self.refused)} of {looked_at} rows looked at would be skipped; the first: {first.row} of "
                f"{first.source}: {first.reason}"
            )
        usable = sum(map(len, self.sources))
        skipped = sum(len(rows.skipped) for rows in self.sources)
        refused = usable * len(self.refused) / max(looked_at, 1)
        share = (skipped + refused) / max(usable + skipped, 1)
        if share > max_skipped_fraction:
            lines.append(
                f"CANNOT RUN: {share:.1%} of the rows would be skipped, and max_skipped_fraction is "
                f"{max_skipped_fraction:g}; mend them, or raise the limit"
            )
        if self.assumed is not None:
            targets = f", {sum(self.assumed.targets)} of them targets" if self.assumed.targets else ""
            lines.append(
                f"assumed instead: a row as long as the recipe allows: {self.assumed.visual} visual tokens (all frames "
                f"at the largest size), {self.assumed.text} of text{targets}"
            )
        return lines

    def steps(self, recipe: Recipe, step_rows: int) -> int | None:
        """Steps of the run in batches of that many rows; None: they follow from rows that are not there."""
        if recipe.max_steps > 0:
            return recipe.max_steps
        if self.assumed is not None:
            return None
        order = RowOrder([len(rows) for rows in self.sources], [rows.weight for rows in self.sources], recipe.seed)
        return steps_in_all(recipe.num_train_epochs, order.epoch_rows, step_rows)


def read_data(recipe: Recipe, model: Model, text_tokens: TextTokens, longest_targets: tuple[int, ...]) -> Data:
    """Read the rows to train on, as far as they are there.

    Args:
        text_tokens: of a row under this kind of training.
        longest_targets: most tokens of each target of a row; assumed where files are missing.

    Raises:
        RowError: all files are there, and none of their rows can be used.
    """
    missing = missing_files([*recipe.data, *recipe.eval_data])
    if not missing:
        read_held_out(recipe, needs_videos=False)
    there = [source for source in recipe.data if source.path not in missing]
    if len(there) == len(recipe.data):
        sources = read_sources(there, recipe.fields, recipe.video_root, needs_videos=False)
        return Data(missing, sources, *row_sizes(recipe, model, text_tokens, sources), None)
    sources = [read_source(source, recipe.fields, recipe.video_root) for source in there]
    sizes, looked_into, refused = row_sizes(recipe, model, text_tokens, sources) if any(sources) else ([], 0, [])
    return Data(missing, sources, sizes, looked_into, refused, longest_row(recipe, model, longest_targets))


def missing_files(sources: Sequence[Source]) -> list[str]:
    """Files of sources that are not there, each once."""
    return list(dict.fromkeys(s.path for s in sources if s.path is not None and not Path(s.path).exists()))


def longest_row(recipe: Recipe, model: Model, targets: tuple[int, ...]) -> RowSize:
    """All frames at the largest size, a long question and such targets, with fewer frames where `max_length` says so.

    Raises:
        SettingError: `max_length` leaves no room for frames.
    """
    text = _LONG_PROMPT + sum(targets)
    pair = model.settings.max_pixels // model.patches.factor**2
    pairs = min(model.settings.frame_budget // PAIR, (recipe.max_length - text) // pair)
    if pairs < 1:
        raise SettingError(
            f"max_length {recipe.max_length}: {text} tokens of text and {pair} of two frames are more; raise it"
        )
    return RowSize(pairs * pair, text, targets)


def row_sizes(
    recipe: Recipe, model: Model, text_tokens: TextTokens, sources: Sequence[Rows]
) -> tuple[list[RowSize], int, list[Skipped]]:
    """Tokens of up to 200 rows, evenly spread; how many of their videos could be looked into; rows that are refused.

    A video that is not here counts as long enough for all frames, of the largest size.

    Raises:
        RowError: all of them are refused.
    """
    rows = [(source, row) for source in sources for row in source.rows]
    chosen = [rows[i] for i in np.linspace(0, len(rows) - 1, min(len(rows), _ROWS_LOOKED_AT)).round().astype(int)]
    reader = ClipReader(model.settings, model.patches, recipe.decode_time_limit_s)
    sizes: list[RowSize] = []
    refused: list[Skipped] = []
    looked_into = 0
    for source, row in chosen:
        video = row.video_path(source.video_root)
        try:
            try:
                with reader.video_file(video) as video_file:
                    facts = video_file.facts
                looked_into += 1
            except VideoError:
                if os.path.exists(video):
                    raise
                side = math.isqrt(model.settings.max_pixels)
                duration_s = row.duration or model.settings.frame_budget / model.settings.sparse_rate_fps
                facts = VideoFacts(duration_s, side, side)
            sizes.append(_row_size(recipe, model, row, facts, text_tokens))
        except (RowError, QuestionError, VideoError) as error:
            refused.append(Skipped(source.name, row.id, str(error)))
    if not sizes:
        first = refused[0]
        raise RowError(
            f"none of the {len(chosen)} rows looked at can be used; the first: {first.row} of {first.source}: "
            f"{first.reason}"
        )
    return sizes, looked_into, refused


def _row_size(recipe: Recipe, model: Model, row: Row, facts: VideoFacts, text_tokens: TextTokens) -> RowSize:
    text, targets = text_tokens(row, facts.duration_s)
    plan = plan_within(facts, model.settings.sampling, model.patches, recipe.max_length - text)
    if plan is None:
        raise RowError(f"row {row.id}: no room for frames")
    return RowSize(len(plan) * tokens_a_pair(facts, model.patches), text, targets)


def guessed_tokens(model: Model, row: Row, written: Sequence[str]) -> tuple[int, tuple[int, ...]]:
    """As `TextTokens`, by characters: for a model whose tokenizer is not here.

    Args:
        written: what stands behind the question, one text a task.
    """
    prompts = model.settings.prompts
    counts = tuple(_guess(text) + 1 for text in written)
    return _guess(prompts.system + prompts.user_text(row.question, row.options or ())) + 20 + sum(counts), counts


def _guess(text: str) -> int:
    return math.ceil(len(text) / _CHARACTERS_A_TOKEN)
