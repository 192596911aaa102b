"""Examples of rows, and what to ask them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from videoreasoner.models.positions import ClipTokens
from videoreasoner.rows import Row, read_rows
from videoreasoner.tasks import Task
from videoreasoner.training.data.examples import Example, ExampleMaker
from videoreasoner.training.data.sources import Skipped

TASKS = {task: frozenset({task}) for task in Task}


def example(made: ExampleMaker, data: Path, **changes: Any) -> Example:
    row = next(read_rows(data))
    row = Row.model_validate({**row.model_dump(), **changes})
    return made.example("rows", row, row.video_path(data.parent))


def clip_of(example: Example) -> ClipTokens:
    [clip] = [part for part in example.prompt.trunk.parts if isinstance(part, ClipTokens)]
    return clip


def row_id(item: Example | Skipped) -> str:
    return item.row if isinstance(item, Skipped) else item.row.id
