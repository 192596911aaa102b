"""Rows from files and data sets, with those that cannot be used set aside."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from pydantic import ValidationError

from videoreasoner.errors import MissingExtraError, RowError
from videoreasoner.rows import Row, read_rows_lenient
from videoreasoner.tasks import Task
from videoreasoner.training.recipe import Source
from videoreasoner.validation import explain


@dataclass(frozen=True)
class Skipped:
    """A row that is not used.

    Attributes:
        source: the file or data set.
        row: its id, or its line where it is not even a row.
        reason: why, in words.
    """

    source: str
    row: str
    reason: str


@dataclass(frozen=True)
class Rows:
    """The rows of one source.

    Attributes:
        name: of the source.
        weight: how often each row comes in an epoch.
        video_root: relative videos lie here.
        rows: those that may be used.
        skipped: those that cannot be, whatever their video holds.
        digest: of the content that was read; another one means other data.
    """

    name: str
    weight: float
    video_root: str | None
    rows: list[Row]
    skipped: list[Skipped] = field(default_factory=list)
    digest: str = ""

    def __len__(self) -> int:
        return len(self.rows)


def read_source(source: Source, tasks: Sequence[Task], video_root: str | None, needs_videos: bool = True) -> Rows:
    """Read a source. A row that is not valid, supports no task, or whose video is not there is set aside.

    Rows are told apart by their ids, in logs and in what is sampled for them, so an id that came before gets a number:
    `a`, `a#2`.

    Args:
        needs_videos: off, rows are used whether their video is there or not.

    Raises:
        RowError: there is no such file, or it holds no row.
        MissingExtraError: a data set is asked for, and `datasets` is not installed.
    """
    root = source.video_root or video_root
    rows: list[Row] = []
    skipped: list[Skipped] = []
    digest = hashlib.sha256()
    seen: Counter[str] = Counter()
    for row in _read(source):
        if isinstance(row, RowError):
            place, _, reason = str(row).removeprefix(f"{source.name}, ").partition(": ")
            skipped.append(Skipped(source.name, place, reason))
            digest.update(str(row).encode("utf-8", "backslashreplace"))
            continue
        digest.update(row.to_json_line().encode())
        seen[row.id] += 1
        if seen[row.id] > 1:
            row = row.model_copy(update={"id": f"{row.id}#{seen[row.id]}"})
        reason = _why_not(row, tasks, root, needs_videos)
        if reason:
            skipped.append(Skipped(source.name, row.id, reason))
        else:
            rows.append(row)
    return Rows(source.name, source.weight, root, rows, skipped, digest.hexdigest())


def read_sources(
    sources: Sequence[Source], tasks: Sequence[Task], video_root: str | None, needs_videos: bool = True
) -> list[Rows]:
    """Read all sources.

    Raises:
        RowError: as above, or no row at all supports one of the tasks.
    """
    read = [read_source(source, tasks, video_root, needs_videos) for source in sources]
    usable = [row for rows in read for row in rows.rows]
    if not usable:
        reasons = [f"{s.source}, {s.row}: {s.reason}" for rows in read for s in rows.skipped]
        raise RowError(f"none of the {len(reasons)} rows can be used; the first: {reasons[0]}")
    supported = {task for row in usable for task in row.tasks()}
    idle = [str(task) for task in tasks if task not in supported]
    if idle:
        names = ", ".join(rows.name for rows in read)
        raise RowError(
            f"{names}: no row supports the task {' or '.join(idle)}; give rows with that field, "
            "or leave it out of tasks"
        )
    return read


def _read(source: Source) -> Iterator[Row | RowError]:
    return read_rows_lenient(source.path) if source.path is not None else _dataset_rows(source)


def _dataset_rows(source: Source) -> Iterator[Row | RowError]:
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError(
            f"data set {source.name}: needs `datasets`; install it with: pip install 'videoreasoner[datasets]'"
        ) from error
    try:
        found = datasets.load_dataset(source.dataset, data_files=source.data_files, split=source.split)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise RowError(f"data set {source.name}: cannot be loaded ({error}); check its id and the network") from error
    for number, content in enumerate(found, 1):
        try:
            yield Row.model_validate(content)
        except ValidationError as error:
            yield RowError(f"{source.name}, row {number}: {explain(error)}")


def _why_not(row: Row, tasks: Sequence[Task], root: str | None, needs_videos: bool) -> str:
    if not row.tasks() & set(tasks):
        return f"supports none of the tasks {', '.join(tasks)}"
    path = row.video_path(root)
    if needs_videos and "://" not in path and not os.path.exists(path):
        return f"no such video: {path}; check video_root"
    return ""


def skipped_lines(skipped: Sequence[Skipped]) -> str:
    """Lines of `skipped.jsonl`, in ASCII as those of the other logs."""
    return "".join(json.dumps({"source": s.source, "row": s.row, "reason": s.reason}) + "\n" for s in skipped)
