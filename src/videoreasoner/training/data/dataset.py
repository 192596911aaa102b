"""The training data as torch sees it: positions of the row stream -> batches of trees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from videoreasoner.errors import QuestionError, RowError, VideoError
from videoreasoner.models.positions import ClipTokens
from videoreasoner.models.prompt_encoder import PromptEncoder
from videoreasoner.models.prompt_tree import PromptTree, collate
from videoreasoner.rows import Row
from videoreasoner.tasks import Task
from videoreasoner.training.data.examples import (
    Lesson,
    Target,
    completions,
    lesson,
    reaches_beyond,
    target_texts,
    text_length,
)
from videoreasoner.training.data.frames import Clip, ClipReader
from videoreasoner.training.data.sampler import RowOrder
from videoreasoner.training.data.sources import Rows, Skipped
from videoreasoner.utils.processes import end_with_parent
from videoreasoner.video.patches import Patches, patchify

TASKS = list(Task)


@dataclass(frozen=True, eq=False)
class Example:
    """One row, ready for the model.

    Attributes:
        source, row: where it comes from.
        lesson: its trees and targets.
        clip: the frames that it shows.
        tokens: where they stand.
        is_clipped: whether its event reached beyond the video.
    """

    source: str
    row: Row
    lesson: Lesson
    clip: Clip
    tokens: ClipTokens
    is_clipped: bool


@dataclass(frozen=True)
class Notes:
    """What else is to be known of a batch; summed over processes for the metrics.

    Attributes:
        rows: source and id of each row in it.
        skipped: rows that were to be in it and cannot be used.
        clipped, reduced: rows whose event reached beyond the video; rows with fewer frames than the settings ask for.
        decode_s: seconds that workers spent on getting frames.
        tokens: of all rows, padding apart.
    """

    rows: list[tuple[str, str]] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    clipped: int = 0
    reduced: int = 0
    decode_s: float = 0.0
    tokens: int = 0


@dataclass(frozen=True)
class Lessons:
    """How rows of one checkpoint become examples.

    Attributes:
        tasks: what is taught.
        max_length, max_target_length: token limits of a row and of a target.
        tokens_per_second: temporal resolution of the model's positions; None counts pairs.
    """

    encoder: PromptEncoder
    reader: ClipReader
    tasks: Sequence[Task]
    max_length: int
    max_target_length: int
    tokens_per_second: float | None
    shared_prompt: bool = True

    def example(self, source: str, row: Row, video: str) -> Example:
        """One row as an example; its video is read.

        Raises:
            RowError, QuestionError, VideoError: the row cannot be used; the message says why.
        """
        question = self.encoder.question(row.question, row.options or ())
        with self.reader.video_file(video) as video_file:
            texts = target_texts(row, self.tasks, self.encoder, video_file.facts.duration_s)
            targets = completions(texts, self.encoder, self.max_target_length)
            clip = video_file.read(self.max_length, text_length(question, targets, self.encoder))
        tokens = clip.tokens(self.reader.patches, self.tokens_per_second)
        made = lesson(question, targets, tokens, self.encoder, self.shared_prompt)
        return Example(source, row, made, clip, tokens, reaches_beyond(row, clip.facts.duration_s))


class RowDataset(Dataset[Example | Skipped]):
    """Position of the stream -> example, or why there is none.

    Args:
        sources: rows with their weights.
        lessons: how they become examples.
        order: which row comes when.
        length: positions in all.
    """

    def __init__(self, sources: Sequence[Rows], lessons: Lessons, order: RowOrder, length: int) -> None:
        self.lessons, self.order, self.length = lessons, order, length
        self.rows = [(rows, row) for rows in sources for row in rows.rows]

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, position: int) -> Example | Skipped:
        end_with_parent()
        rows, row = self.rows[self.order[position]]
        try:
            return self.lessons.example(rows.name, row, row.video_path(rows.video_root))
        except (RowError, QuestionError, VideoError) as error:
            return Skipped(rows.name, row.id, str(error))


@dataclass(frozen=True)
class Collator:
    """Examples -> one batch: what `collate` returns, and

        pixel_values_videos  float32[patches, values], video_grid_thw int64[clips, 3]
        rows, predictors     int64[N]: batch row and index in it that predict each target token
        labels, tasks        int64[N]: the id to predict there, and the number of its task
        notes                `Notes`

    A batch of which no row can be used still has a tree, without targets: every process takes part in every step.
    """

    encoder: PromptEncoder
    reader: ClipReader

    def __call__(self, items: Sequence[Example | Skipped]) -> dict[str, Any]:
        examples = [item for item in items if isinstance(item, Example)]
        skipped = [item for item in items if isinstance(item, Skipped)]
        patches = [patchify(example.clip.frames, self.reader.patches) for example in examples]
        lessons = [example.lesson for example in examples]
        if not examples:
            lessons, patches = [self._nothing()], [self._black()]
        notes = Notes(
            [(example.source, example.row.id) for example in examples],
            skipped,
            sum(example.is_clipped for example in examples),
            sum(example.clip.is_reduced for example in examples),
            sum(example.clip.decode_s for example in examples),
            sum(len(tree) for item in lessons for tree in item.trees) if examples else 0,
        )
        return {**lesson_batch(lessons, patches, self.encoder.tokenizer.pad_token_id), "notes": notes}

    def _nothing(self) -> Lesson:
        return Lesson([PromptTree(self.encoder.trunk([ClipTokens(1, 1, (0,))])).pack()], [])

    def _black(self) -> Patches:
        side = self.reader.patches.factor
        return patchify(torch.zeros(2, 3, side, side, dtype=torch.uint8), self.reader.patches)


def lesson_batch(lessons: Sequence[Lesson], patches: Sequence[Patches], pad_token_id: int) -> dict[str, Tensor]:
    """The trees of several rows as one forward pass, and where their targets are predicted."""
    trees = [tree for item in lessons for tree in item.trees]
    clips = [clip for item, clip in zip(lessons, patches, strict=True) for _ in item.trees]
    batch = collate(trees, pad_token_id)
    batch["pixel_values_videos"] = torch.cat([clip.pixel_values for clip in clips])
    batch["video_grid_thw"] = torch.tensor([clip.grid for clip in clips])
    columns: dict[str, list[Tensor]] = {"rows": [], "predictors": [], "labels": [], "tasks": []}
    first = 0
    for item in lessons:
        for target in item.targets:
            _add_target(columns, item, target, first)
        first += len(item.trees)
    for name, parts in columns.items():
        batch[name] = torch.cat(parts) if parts else torch.zeros(0, dtype=torch.long)
    return batch


def _add_target(columns: dict[str, list[Tensor]], item: Lesson, target: Target, first: int) -> None:
    packed = item.trees[target.tree]
    where = packed.predictors(target.node)
    columns["rows"].append(torch.full_like(where, first + target.tree))
    columns["predictors"].append(where)
    columns["labels"].append(torch.tensor(packed.tree.tokens[target.node]))
    columns["tasks"].append(torch.full_like(where, TASKS.index(target.task)))
