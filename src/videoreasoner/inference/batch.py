"""Many questions from a file of rows to a file of answers, which a killed run continues.

Rows are answered video by video, whatever their order, so that each video is opened once. Records are appended as they
are ready. When all rows are done, the file is put into the order of the rows.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

from videoreasoner.errors import RowError, SettingError
from videoreasoner.inference.candidate import LocalCandidate
from videoreasoner.inference.query import check_mode
from videoreasoner.inference.reasoner import Reasoner
from videoreasoner.inference.records import as_data, by_video, unusable_record, video_of
from videoreasoner.inference.workers import WorkerConfig, answer_videos, check_workers
from videoreasoner.rows import Row, read_rows
from videoreasoner.utils.jsonl import RecordFile, RecordStream, is_failure


@dataclass(frozen=True)
class BatchResult:
    """How a run ended: rows answered now, rows that had an answer already, rows that failed.

    Attributes:
        reasons: message -> ids of the rows that failed with it; None for a line that is no row.
    """

    answered: int
    resumed: int
    failed: int
    reasons: dict[str, list[str | int | None]] = field(default_factory=dict, compare=False)


def answer_rows(
    model: Reasoner | LocalCandidate,
    rows: Path | Sequence[Row | RowError],
    out: Path | BinaryIO,
    *,
    mode: str = "focus",
    video_root: Path | None = None,
    workers: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> BatchResult:
    """Answer every row that `out` does not hold an answer to yet.

    Records are those of `answer_records`. A file is in the order of the rows when this returns; after a kill it is in
    the order in which answers came, and the next call asks only what is missing. Rows that failed are asked again by
    the next call. Answers do not depend on the order of the rows or on the number of workers. Times do, and so does
    which question of a video is charged for work that they share.

    Args:
        model: what answers. A `LocalCandidate` is loaded when there is something to ask, once by each worker.
        rows: a file (see `read_rows`), or what `load_rows` returned.
        out: a file, which is made or continued; or a stream, which gets the records in the order of the rows.
        mode: "focus", "direct" or "think".
        video_root: folder of relative videos.
        workers: processes that answer, each about one video at a time; more than 1 need a `LocalCandidate`. Where
            there are several GPUs, worker i works on GPU i modulo their number, unless the device names one.
        progress: told (rows done, rows in total).

    Raises:
        RowError: the file of rows cannot be read at all, or two rows have the same id.
        SettingError: the mode is unknown, or the answer file cannot be written or is in use, or it holds something
            else, or answers that were given in another way or to another row of the same id.
        WorkerError: a worker died; what it had answered is kept.
        VideoReasonerError: the model cannot be loaded.
    """
    check_mode(mode)
    check_workers(workers)
    if workers > 1 and isinstance(model, Reasoner):
        raise SettingError("a loaded Reasoner answers in its own process; give a LocalCandidate, or one worker")
    asked = load_rows(rows) if isinstance(rows, Path) else list(rows)
    source = _Loaded(model) if isinstance(model, Reasoner) else model
    order = [row.id if isinstance(row, Row) else None for row in asked]
    with _open(out, {"mode": mode, **source.answers_as()}) as records:
        waiting = [row for row in asked if isinstance(row, Row) and not _is_done(row, records, video_root)]
        unusable = [row for row in asked if isinstance(row, RowError)]
        records.start(order)
        done = resumed = len(asked) - len(waiting) - len(unusable)
        reasons: dict[str, list[str | int | None]] = {}
        progress(resumed, len(asked))
        config = WorkerConfig(source, mode, video_root)
        answers = answer_videos(config, by_video(waiting, video_root), workers)
        for record in chain(map(unusable_record, unusable), answers):
            records.append(record)
            if is_failure(record):
                reasons.setdefault(record["error"], []).append(record["id"])
            done += 1
            progress(done, len(asked))
        records.finish()
    failed = sum(map(len, reasons.values()))
    return BatchResult(done - resumed - failed, resumed, failed, reasons)


def load_rows(source: Path | BinaryIO) -> list[Row | RowError]:
    """The rows of a file or stream, with an error in the place of each line that is no row.

    Raises:
        RowError: it cannot be read at all, or two rows have the same id.
    """
    rows = list(read_rows(source))
    seen: set[str] = set()
    for row in rows:
        if isinstance(row, Row):
            if row.id in seen:
                name = source if isinstance(source, Path) else "stdin"
                raise RowError(f"{name}: the id {row.id!r} is there twice; give each row an id of its own")
            seen.add(row.id)
    return rows


@dataclass(frozen=True)
class _Loaded:
    """A source that is loaded already."""

    reasoner: Reasoner

    def load(self) -> Reasoner:
        return self.reasoner

    def answers_as(self) -> dict[str, Any]:
        return {"engine": self.reasoner.engine.identity(), "settings": self.reasoner.settings.for_inference()}


def _open(out: Path | BinaryIO, asked_as: dict[str, Any]) -> RecordFile | RecordStream:
    if isinstance(out, Path):
        return RecordFile(out, asked_as, keep=("row", "video"))
    return RecordStream(out)


def _is_done(row: Row, records: RecordFile | RecordStream, video_root: Path | None) -> bool:
    """Whether there is an answer to this very row, about this very video."""
    if isinstance(records, RecordStream) or not records.holds(row.id, as_data(row)):
        return False
    answered, video = records.done[row.id]["video"], video_of(row, video_root)
    if not _is_same_video(answered, video):
        raise SettingError(
            f"{records.path}: its answer to {row.id!r} is about {answered}, and not about {video}; give the "
            "--video-root of before, or --out another name"
        )
    return True


def _is_same_video(one: str, other: str) -> bool:
    """Whether two paths or addresses name one video, such as a relative and an absolute path."""
    return one == other or (os.path.exists(one) and os.path.exists(other) and os.path.samefile(one, other))
