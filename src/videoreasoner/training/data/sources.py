"""Rows from files and data sets, with those that cannot be used set aside."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field

from pydantic import ValidationError

from videoreasoner.errors import MissingExtraError, RowError, TrainingError
from videoreasoner.rows import Row, RowFields, read_rows
from videoreasoner.tasks import Task, judged_by
from videoreasoner.training.recipe import Recipe, Source
from videoreasoner.utils.validation import explain


@dataclass(frozen=True)
class Skipped:
    """A row that is not used.

    Attributes:
        source: the file or data set.
        row: its id, or its line where it is not even a row.
        reason: why, in words.
        step: the optimizer step that wanted it; 0: found out before the first one.
    """

    source: str
    row: str
    reason: str
    step: int = 0


@dataclass(frozen=True)
class Rows:
    """The rows of one source.

    Attributes:
        name: of the source.
        weight: how often each row comes in an epoch.
        video_root: relative videos lie here.
        rows: usable rows. They include rows whose video is missing, so that the order of a run depends on the content
            of the data files alone.
        skipped: rows that cannot be used, whatever their video holds.
        absent: those of `rows` whose video is missing now.
        digest: of the content that was read; another one means other data.
    """

    name: str
    weight: float
    video_root: str | None
    rows: list[Row]
    skipped: list[Skipped] = field(default_factory=list)
    absent: list[Skipped] = field(default_factory=list)
    digest: str = ""

    def __len__(self) -> int:
        return len(self.rows)


def read_source(source: Source, fields: RowFields, video_root: str | None, number: int = 1) -> Rows:
    """Read a source. A row that is not valid, or that no task can use, is set aside.

    Logs and random streams tell rows apart by their ids, so an id that occurs again gets a number: `a`, `a#2`. So does
    the name of a source that is listed again, such as the same file for videos in another folder.

    Args:
        number: how often the source has been listed, this time included.

    Raises:
        RowError: there is no such file, or it holds no row.
        MissingExtraError: a data set is asked for, and `datasets` is not installed.
    """
    root = source.video_root or video_root
    name = source.name if number == 1 else f"{source.name}#{number}"
    rows: list[Row] = []
    skipped: list[Skipped] = []
    absent: list[Skipped] = []
    digest = hashlib.sha256()
    seen: Counter[str] = Counter()
    for row in _read(source):
        if isinstance(row, RowError):
            place, _, reason = str(row).removeprefix(f"{source.name}, ").partition(": ")
            skipped.append(Skipped(name, place, reason))
            digest.update(str(row).encode("utf-8", "backslashreplace"))
            continue
        digest.update(row.to_json_line().encode())
        seen[row.id] += 1
        if seen[row.id] > 1:
            row = row.model_copy(update={"id": f"{row.id}#{seen[row.id]}"})
        if not row.usable_tasks(fields):
            skipped.append(Skipped(name, row.id, f"supports none of the tasks {', '.join(fields)}"))
            continue
        rows.append(row)
        path = row.video_path(root)
        if "://" not in path and not os.path.exists(path):
            absent.append(Skipped(name, row.id, f"no such video: {path}; check video_root"))
    return Rows(name, source.weight, root, rows, skipped, absent, digest.hexdigest())


def read_sources(
    sources: Sequence[Source], fields: RowFields, video_root: str | None, needs_videos: bool = True
) -> list[Rows]:
    """Read all sources.

    Args:
        needs_videos: whether there must be a row whose video exists.

    Raises:
        RowError: as `read_source`; or no row can be used, or none can be used for one of the tasks.
    """
    listed: Counter[str] = Counter()
    read: list[Rows] = []
    for source in sources:
        listed[source.name] += 1
        read.append(read_source(source, fields, video_root, listed[source.name]))
    lost = [item for rows in read for item in (*rows.skipped, *(rows.absent if needs_videos else ()))]
    if len(lost) == sum(len(rows) + len(rows.skipped) for rows in read):
        first = lost[0]
        raise RowError(
            f"none of the {len(lost)} rows can be used; the first: {first.source}, {first.row}: {first.reason}"
        )
    supported = {task for rows in read for row in rows.rows for task in row.usable_tasks(fields)}
    idle = [str(task) for task in fields if task not in supported]
    if idle:
        names = ", ".join(rows.name for rows in read)
        raise RowError(
            f"{names}: no row supports the task {' or '.join(idle)}; give rows with that field, "
            "or leave it out of tasks"
        )
    return read


@dataclass(frozen=True)
class TrainingData:
    """The rows of a run.

    Attributes:
        sources: rows to train on.
        held_out: rows to sample outputs for.
        skipped: rows of `sources` that cannot be used, as far as that is known before their videos are read.
    """

    sources: list[Rows]
    held_out: list[Rows]
    skipped: list[Skipped]

    @property
    def digests(self) -> dict[str, str]:
        """Source -> digest of its content; another digest means other data."""
        return {rows.name: rows.digest for rows in self.sources}


def read_data(recipe: Recipe) -> TrainingData:
    """Read all rows of a recipe.

    Raises:
        RowError: as `read_sources`.
        TrainingError: too many rows cannot be used.
    """
    sources = read_sources(recipe.data, recipe.row_fields, recipe.video_root)
    skipped = [item for rows in sources for item in (*rows.skipped, *rows.absent)]
    check_skipped(skipped, sources, recipe.max_skipped_fraction)
    return TrainingData(sources, read_held_out(recipe), skipped)


def held_out_fields(tasks: Sequence[Task]) -> RowFields:
    """Task -> row fields, any one of which makes a held-out row usable. Key elements are parsed only: any field will
    do."""
    return {task: frozenset(Task if task is Task.KEY_ELEMENTS else {judged_by(task)}) for task in tasks}


def read_held_out(recipe: Recipe, needs_videos: bool = True) -> list[Rows]:
    """The rows that outputs are sampled for.

    Raises:
        RowError: a file of `eval_data` is missing, or no row can be used for one of the tasks.
    """
    if not recipe.eval_data:
        return []
    return read_sources(recipe.eval_data, held_out_fields(recipe.tasks), recipe.video_root, needs_videos)


def check_skipped(skipped: Sequence[Skipped], sources: Sequence[Rows], limit: float) -> None:
    """Stop when too many rows cannot be used.

    Raises:
        TrainingError: more than `limit` of all rows; the message says which sources, and the first reasons.
    """
    everything = sum(len(rows) + len(rows.skipped) for rows in sources)
    if len(skipped) <= limit * everything:
        return
    by_source = Counter(item.source for item in skipped)
    names = ", ".join(f"{count} of {source}" for source, count in by_source.most_common())
    first = "; ".join(f"{item.row}: {item.reason}" for item in skipped[:3])
    raise TrainingError(
        f"{len(skipped)} of {everything} rows cannot be used ({names}), more than max_skipped_fraction {limit:g}; "
        f"the first: {first}. Correct them, or raise the limit; skipped.jsonl lists those found while training"
    )


def _read(source: Source) -> Iterator[Row | RowError]:
    return read_rows(source.path) if source.path is not None else _dataset_rows(source)


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


def skipped_lines(skipped: Sequence[Skipped]) -> str:
    """Lines of `skipped.jsonl`, in ASCII as those of the other logs."""
    return "".join(json.dumps(asdict(item)) + "\n" for item in skipped)
