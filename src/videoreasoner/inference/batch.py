"""Many questions from a file of rows to a file of answers, which a killed run continues.

An answer file is a `RecordFile`. A row that cannot be answered becomes an error record, also when memory ran out.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import torch

from videoreasoner.errors import RowError, SettingError, VideoError, VideoReasonerError
from videoreasoner.inference.answer import Answer
from videoreasoner.inference.query import Query, check_mode
from videoreasoner.inference.reasoner import Reasoner
from videoreasoner.rows import Row, read_rows
from videoreasoner.utils.jsonl import Record, RecordFile, is_failure


@dataclass(frozen=True)
class BatchResult:
    """How a run ended: rows answered now, rows that had an answer already, rows that failed."""

    answered: int
    resumed: int
    failed: int


def answer_rows(
    reasoner: Reasoner,
    rows_path: Path,
    out_path: Path,
    *,
    mode: str = "focus",
    video_root: Path | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> BatchResult:
    """Answer every row of a file that `out_path` does not hold an answer to yet.

    Records are those of `answer_records`, in the order of the rows that a run asks. Rows that failed are asked again
    by the next run.

    Args:
        progress: told (rows done, rows in total).

    Raises:
        RowError: the file of rows cannot be read at all, or two rows have the same id.
        SettingError: the mode is unknown, or the answer file cannot be written or is in use, or it holds something
            else, or answers that were given in another way or to another row of the same id.
    """
    check_mode(mode)
    rows = _load(rows_path)
    asked_as = {"mode": mode, "engine": reasoner.engine.identity(), "settings": reasoner.settings.for_inference()}
    with RecordFile(out_path, asked_as, keep=("row", "video")) as records:
        waiting = [row for row in rows if not _is_done(row, records, video_root)]
        records.start()
        resumed, failed, count = len(rows) - len(waiting), 0, 0
        progress(resumed, len(rows))
        for count, record in enumerate(answer_records(reasoner, waiting, mode, video_root), 1):
            records.append(record)
            failed += is_failure(record)
            progress(resumed + count, len(rows))
    return BatchResult(count - failed, resumed, failed)


def answer_records(
    reasoner: Reasoner, rows: Sequence[Row | RowError], mode: str, video_root: Path | None
) -> Iterator[Record]:
    """One record for each row, in order. Questions about one video that follow each other share its work.

    A record is `Answer.to_dict()` with the row's `id`, under `row` the row itself, and under `engine` what answered
    (`Engine.identity`). The record of a row that cannot be answered has `id` and `error`.
    """

    def video(row: Row | RowError) -> str | None:
        return None if isinstance(row, RowError) else row.video_path(video_root)

    engine = reasoner.engine.identity()
    for name, group in groupby(rows, video):
        if name is None:
            yield from ({"id": None, "error": str(row)} for row in group)
            continue
        for record in _video_records(reasoner, name, [row for row in group if isinstance(row, Row)], mode):
            yield record if is_failure(record) else {**record, "engine": engine}


def _video_records(reasoner: Reasoner, name: str, rows: Sequence[Row], mode: str) -> Iterator[Record]:
    """Records of rows about one video. When the video fails, so do all rows that are left; a row fails alone."""
    queries = [_query(row) for row in rows]
    answers: Iterator[Answer] | None = None
    video_error: str | None = None
    for number, (row, query) in enumerate(zip(rows, queries, strict=True)):
        error = query if isinstance(query, str) else video_error
        if error is None:
            # Opened once for all questions that are left, and again after a failure, which ends an iterator.
            if answers is None:
                left = [query for query in queries[number:] if isinstance(query, Query)]
                answers = reasoner.iter_answers(name, left, mode)
            try:
                answer = next(answers).to_dict()
                yield {"id": row.id, **answer, "row": _plain(row)}
                continue
            except VideoError as caught:
                error = video_error = str(caught)
            except VideoReasonerError as caught:
                error, answers = str(caught), None
            except (MemoryError, RuntimeError) as caught:
                if not _is_out_of_memory(caught):
                    raise
                error, answers = f"{name}: out of memory; lower --frame-budget or take a smaller model", None
        yield {"id": row.id, "error": error}


def _is_done(row: Row | RowError, records: RecordFile, video_root: Path | None) -> bool:
    """Whether there is an answer to this very row, about this very video."""
    if isinstance(row, RowError) or not records.holds(row.id, _plain(row)):
        return False
    answered, video = records.done[row.id]["video"], row.video_path(video_root)
    if not _is_same_video(answered, video):
        raise SettingError(
            f"{records.path}: its answer to {row.id!r} is about {answered}, and not about {video}; give the "
            "--video-root of before, or --out another name"
        )
    return True


def _is_same_video(one: str, other: str) -> bool:
    """Whether two paths or addresses name one video, such as a relative and an absolute path."""
    return one == other or (os.path.exists(one) and os.path.exists(other) and os.path.samefile(one, other))


def _plain(row: Row) -> Record:
    """The row as it is in a file."""
    content: Record = json.loads(row.to_json_line())
    return content


def _is_out_of_memory(error: Exception) -> bool:
    # On a CPU torch has no type of its own for it.
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "allocate memory" in str(error)


def _query(row: Row) -> Query | str:
    try:
        return Query(row.question, tuple(row.options or ()))
    except VideoReasonerError as error:
        return str(error)


def _load(path: Path) -> list[Row | RowError]:
    rows = list(read_rows(path))
    seen: set[str] = set()
    for row in rows:
        if isinstance(row, Row):
            if row.id in seen:
                raise RowError(f"{path}: the id {row.id!r} is there twice; give each row an id of its own")
            seen.add(row.id)
    return rows
