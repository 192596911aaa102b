"""Many questions from a file of rows to a file of answers, resumable at any moment.

An answer file is one JSON object a line, appended and flushed as soon as it is there; a line cut short by a kill is
dropped on the next start and its row asked again. A row that cannot be answered, also for want of memory, becomes an
error record.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from videoreasoner.errors import RowError, SettingError, VideoError, VideoReasonerError
from videoreasoner.inference.answer import Answer
from videoreasoner.inference.query import Query, check_mode
from videoreasoner.inference.reasoner import Reasoner
from videoreasoner.rows import Row, read_rows_lenient
from videoreasoner.utils.files import locked, replacing

_RECORD_START = b'{"id": '


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
    row's `id`, under `row` the row itself, and under `engine` what answered (`Engine.identity`); an error record has
    `id` and `error`. Rows that failed are asked again by the next run. Records come in the order of the rows that a
    run asks.

    Raises:
        RowError: the file of rows cannot be read at all, or two rows have the same id.
        SettingError: the mode is unknown, or the answer file cannot be written or is in use, or it holds something
            else, or answers that were given in another way or to another row of the same id.
    """
    check_mode(mode)
    if out_path.is_dir() or not out_path.name or (out_path.exists() and not out_path.is_file()):
        raise SettingError(f"{str(out_path)!r}: no regular file; give --out a file name")
    rows = _load(rows_path)
    engine = reasoner.engine.identity()
    asked_as = {"mode": mode, "engine": engine, "settings": reasoner.settings.looking()}
    with ExitStack() as stack:
        with _writing(out_path):
            out_path.parent.mkdir(parents=True, exist_ok=True)
            busy = SettingError(f"{out_path}: another run is writing there; wait for it, or give --out another name")
            # Of the file itself: through a link, too, it is the one that is written.
            itself = out_path.resolve()
            stack.enter_context(locked(itself.with_name(f".{itself.name}.lock"), busy))
            done = _keep_answers(out_path, asked_as)
        _append(out_path, b"")
        waiting = [row for row in rows if not _is_done(row, done, video_root, out_path)]
        resumed, failed, count = len(rows) - len(waiting), 0, 0
        progress(resumed, len(rows))
        for record in _records(reasoner, waiting, mode, video_root):
            if "error" not in record:
                record["engine"] = engine
            _append(out_path, _line(record))
            failed += "error" in record
            count += 1
            progress(resumed + count, len(rows))
    return BatchResult(count - failed, resumed, failed)


def _is_done(row: Row | RowError, done: Mapping[str, dict[str, Any]], root: Path | None, out_path: Path) -> bool:
    """Whether there is an answer to this row, and not to another one with its id."""
    if isinstance(row, RowError) or row.id not in done:
        return False
    there, video = done[row.id], row.video_path(root)
    asked = json.loads(row.to_json_line())
    differing = sorted(key for key in {*there["row"], *asked} if there["row"].get(key) != asked.get(key))
    if differing:
        raise SettingError(
            f"{out_path}: holds an answer to another row with the id {row.id!r}, with another {', '.join(differing)}; "
            "give --out another name"
        )
    if not _is_same_video(there["video"], video):
        raise SettingError(
            f"{out_path}: its answer to {row.id!r} is about {there['video']}, and not about {video}; give the "
            "--video-root of before, or --out another name"
        )
    return True


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SettingError(
            f"{path}: cannot be written ({error.strerror or error}); give --out a file name in a folder that is "
            "writable and has room"
        ) from error


def _append(path: Path, line: bytes) -> None:
    # Closed each time: that is when a full disk speaks up.
    with _writing(path), path.open("ab") as out:
        out.write(line)


def _records(
    reasoner: Reasoner, rows: Sequence[Row | RowError], mode: str, root: Path | None
) -> Iterator[dict[str, Any]]:
    def video(row: Row | RowError) -> str | None:
        return None if isinstance(row, RowError) else row.video_path(root)

    for name, group in groupby(rows, video):
        members = list(group)
        if name is None:
            yield from ({"id": None, "error": str(row)} for row in members)
        else:
            yield from _video_records(reasoner, name, [row for row in members if isinstance(row, Row)], mode)


def _video_records(reasoner: Reasoner, name: str, rows: Sequence[Row], mode: str) -> Iterator[dict[str, Any]]:
    """Records of rows about one video. A video that fails fails all rows that are left; a row that fails, itself."""
    queries = [_query(row) for row in rows]
    answers: Iterator[Answer] | None = None
    video_error: str | None = None
    for number, (row, query) in enumerate(zip(rows, queries, strict=True)):
        error = query if isinstance(query, str) else video_error
        if error is None:
            # Opened for all questions that are left, and again after a failure, which ends an iterator.
            if answers is None:
                left = [query for query in queries[number:] if isinstance(query, Query)]
                answers = reasoner.iter_answers(name, left, mode)
            try:
                answer = next(answers)
                yield {"id": row.id, **answer.to_dict(), "row": json.loads(row.to_json_line())}
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


def _is_out_of_memory(error: Exception) -> bool:
    # On a CPU torch has no type of its own for it.
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "allocate memory" in str(error)


def _query(row: Row) -> Query | str:
    try:
        return Query(row.question, tuple(row.options or ()))
    except VideoReasonerError as error:
        return str(error)


def _line(record: dict[str, Any]) -> bytes:
    try:
        return json.dumps(record, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:
        # Half a surrogate pair has no UTF-8; JSON can only escape it.
        return json.dumps(record).encode() + b"\n"


def _load(path: Path) -> list[Row | RowError]:
    rows = list(read_rows_lenient(path))
    seen: set[str] = set()
    for row in rows:
        if isinstance(row, Row):
            if row.id in seen:
                raise RowError(f"{path}: the id {row.id!r} is there twice; ids name the answers")
            seen.add(row.id)
    return rows


def _keep_answers(path: Path, asked_as: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """By id, what was answered already; a cut last line and error records are taken out of the file."""
    if not path.exists():
        return {}
    kept: list[bytes] = []
    answered: dict[str, dict[str, Any]] = {}
    # As bytes: a kill may have cut a character in two, and texts may hold what `splitlines` takes for a line end.
    *lines, rest = path.read_bytes().split(b"\n")
    if rest and not _is_cut(rest):
        lines.append(rest)
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            if record.keys() == {"id", "error"}:
                continue
            answered_as = {key: record[key] for key in asked_as}
            answered[record["id"]] = {"row": dict(record["row"]), "video": record["video"]}
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise SettingError(f"{path}, line {number}: not an answer record; give --out another name") from error
        if answered_as != asked_as:
            differing = "; ".join(_differences(answered_as, asked_as))
            raise SettingError(f"{path}: holds answers given in another way ({differing}); give --out another name")
        kept.append(line)
    if rest or len(kept) != len(lines):
        with replacing(path) as partial:
            partial.write_bytes(b"".join(line + b"\n" for line in kept))
    return answered


def _is_same_video(one: str, other: str) -> bool:
    """Whether two paths or addresses name one video, such as a relative and an absolute path."""
    return one == other or (os.path.exists(one) and os.path.exists(other) and os.path.samefile(one, other))


def _differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    for name in {**then, **now}:
        before, after = then.get(name), now.get(name)
        if isinstance(before, dict) and isinstance(after, dict):
            yield from _differences(before, after)
        elif before != after:
            yield f"{name} {before}, now {after}"


def _is_cut(line: bytes) -> bool:
    """Whether it is the beginning of a record, and not all of it. Anything else is not ours to drop."""
    if not (line.startswith(_RECORD_START) or _RECORD_START.startswith(line)):
        return False
    try:
        json.loads(line)
    except ValueError:
        return True
    return False
