"""Rows to records: what an answer file or a run of a benchmark holds for each row.

A row that cannot be answered becomes an error record, also when memory ran out.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from videoreasoner.errors import RowError, VideoError, VideoReasonerError
from videoreasoner.inference.answer import Answer
from videoreasoner.inference.query import LETTERS_NOTE, Query
from videoreasoner.inference.reasoner import Reasoner
from videoreasoner.rows import Row
from videoreasoner.utils.jsonl import Record


def video_of(row: Row, video_root: Path | None) -> str:
    """The path or address of a row's video, spelled the same for "a.mp4" and "./a.mp4"."""
    path = row.video_path(video_root)
    # Behind a link to a folder, "folder/../a.mp4" is another file than "a.mp4".
    is_plain = "://" not in path and ".." not in Path(path).parts
    return os.path.normpath(path) if is_plain else path


def by_video(rows: Sequence[Row], video_root: Path | None) -> list[list[Row]]:
    """The rows of each video, whatever their order. Videos are in the order of their first row."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(video_of(row, video_root), []).append(row)
    return list(groups.values())


def answer_records(reasoner: Reasoner, rows: Sequence[Row], mode: str, video_root: Path | None) -> Iterator[Record]:
    """One record for each row about one video, in order. The video is opened once, and the rows share its work.

    A record is `Answer.to_dict()` with the row's `id`, under `row` the row itself, and under `engine` what answered
    (`Engine.identity`). The record of a row that cannot be answered has `id` and `error`. When the video fails, so do
    all rows that are left; otherwise a row fails alone.
    """
    if not rows:
        return
    engine = reasoner.engine.identity()
    name = video_of(rows[0], video_root)
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
                answer = next(answers)
                # Reading the row left them out, so the query does not know of them.
                notes = [*([LETTERS_NOTE] if row.had_letters else []), *answer.notes]
                yield {"id": row.json_id, **answer.to_dict(), "notes": notes, "row": as_data(row), "engine": engine}
                continue
            except VideoError as caught:
                error = video_error = str(caught)
            except VideoReasonerError as caught:
                error, answers = str(caught), None
            except (MemoryError, RuntimeError) as caught:
                if not _is_out_of_memory(caught):
                    raise
                error, answers = f"{name}: out of memory; lower --frame-budget or take a smaller model", None
        yield {"id": row.json_id, "error": error}


def unusable_record(error: RowError) -> Record:
    """The record of a line that is no row. It has no id, because none could be read."""
    return {"id": None, "error": str(error)}


def as_data(row: Row) -> Record:
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
