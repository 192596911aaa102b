"""Many questions from a file of rows to a file of answers, resumable at any moment.

An answer file is one JSON object a line, appended and flushed as soon as it is there; a line cut short by a kill is
dropped on the next start and its row asked again. A row that cannot be answered becomes an error record.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from videoreasoner.errors import RowError, SettingError, VideoReasonerError
from videoreasoner.files import replacing
from videoreasoner.reasoner import Query, Reasoner
from videoreasoner.rows import Row, read_rows_lenient


@dataclass(frozen=True)
class BatchResult:
    """How a run ended: rows answered now, rows that were there already, rows that failed."""

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

    Questions about one video that follow each other share its work. An answer record is `Answer.to_dict()` plus the
    row's `id` and, under `row`, the row itself; an error record has `id` and `error`. Rows that failed are asked
    again by the next run.

    Raises:
        RowError: the file of rows cannot be read at all, or two rows have the same id.
        SettingError: the answer file holds something else, or answers that were given in another way.
    """
    rows = _load(rows_path)
    asked_as = {"mode": mode, "model": reasoner.engine.name}
    done = _keep_answers(out_path, asked_as)
    waiting = [row for row in rows if isinstance(row, RowError) or row.id not in done]
    resumed, failed, count = len(rows) - len(waiting), 0, 0
    progress(resumed, len(rows))
    with out_path.open("a", encoding="utf-8") as out:
        for record in _records(reasoner, waiting, mode, video_root):
            out.write(json.dumps(record, ensure_ascii=False) + "\n")
            out.flush()
            failed += "error" in record
            count += 1
            progress(resumed + count, len(rows))
    return BatchResult(count - failed, resumed, failed)


def _records(
    reasoner: Reasoner, rows: Sequence[Row | RowError], mode: str, root: Path | None
) -> Iterator[dict[str, Any]]:
    def video(row: Row | RowError) -> str | None:
        return None if isinstance(row, RowError) else row.video_path(root)

    for name, group in groupby(rows, video):
        members = list(group)
        if name is None:
            yield from ({"id": None, "error": str(row)} for row in members)
            continue
        answerable: list[tuple[Row, Query]] = []
        for row in members:
            assert isinstance(row, Row)
            try:
                answerable.append((row, Query(row.question, tuple(row.options or ()))))
            except VideoReasonerError as error:
                yield {"id": row.id, "error": str(error)}
        answered = 0
        try:
            queries = [query for _, query in answerable]
            for (row, _), answer in zip(answerable, reasoner.iter_answers(name, queries, mode), strict=True):
                yield {"id": row.id, **answer.to_dict(), "row": json.loads(row.to_json_line())}
                answered += 1
        except VideoReasonerError as error:
            yield from ({"id": row.id, "error": str(error)} for row, _ in answerable[answered:])


def _load(path: Path) -> list[Row | RowError]:
    rows = list(read_rows_lenient(path))
    seen: set[str] = set()
    for row in rows:
        if isinstance(row, Row):
            if row.id in seen:
                raise RowError(f"{path}: the id {row.id!r} is there twice; ids name the answers")
            seen.add(row.id)
    return rows


def _keep_answers(path: Path, asked_as: dict[str, str]) -> set[str]:
    """Ids that the file answers already; a cut last line and error records are taken out of it."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        return set()
    kept: list[str] = []
    ids: set[str] = set()
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    for number, line in enumerate(lines, 1):
        if not line.endswith("\n"):
            continue
        try:
            record = json.loads(line)
            answered_as = {key: record[key] for key in asked_as if "error" not in record}
            if "error" in record:
                continue
            ids.add(record["id"])
        except (ValueError, KeyError, TypeError) as error:
            raise SettingError(f"{path}, line {number}: not an answer record; give --out another name") from error
        if answered_as != asked_as:
            raise SettingError(
                f"{path}: holds answers given with {answered_as}, not {asked_as}; give --out another name"
            )
        kept.append(line)
    if len(kept) != len(lines):
        with replacing(path) as partial:
            partial.write_text("".join(kept), encoding="utf-8")
    return ids
