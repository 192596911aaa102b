"""A JSON-lines file of records that a killed run continues.

Each record is one JSON object on a line of its own, named by its `id`, a text or a whole number; ids are compared as
text. Records are appended, and each line is flushed when it is there. At the end the file is put into order. A record
with only `id` and `error` is a failure: the next run drops it and asks again.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from videoreasoner.errors import SettingError, VideoReasonerError
from videoreasoner.utils.files import locked, replacing
from videoreasoner.utils.terminal import printable

Record = dict[str, Any]

_RECORD_START = b'{"id": '


def is_failure(record: Mapping[str, Any]) -> bool:
    """Whether a record says why there is no answer."""
    return record.keys() == {"id", "error"}


def read_records(path: Path) -> Iterator[Record]:
    """The records of a file that `RecordFile` wrote, without a last line that a kill cut short."""
    for line in _whole_lines(path.read_bytes()):
        yield json.loads(line)


class RecordFile:
    """One run's records, as a context manager that lets no other run write the same file.

    Nothing is written before `start`, so that a file that does not fit this run stays as it is.

    Args:
        path: the file; its folder is made if need be.
        asked_as: key -> value of all records, such as the mode and the settings; a file with other values is refused.
        keep: keys of the records that are kept in `done`.
        error: class of the errors that are raised.

    Attributes:
        done: id -> the kept keys of each record that is no failure.

    Raises:
        VideoReasonerError: of class `error`, by any method: the file cannot be written, another run is writing it, it
            holds something else, or records that were asked in another way.
    """

    def __init__(
        self,
        path: Path,
        asked_as: Mapping[str, Any] | None = None,
        keep: Sequence[str] = (),
        error: type[VideoReasonerError] = SettingError,
    ) -> None:
        self.path, self._error, self._keep = path, error, keep
        # Converted to JSON and back, because it is compared with values that were read from JSON.
        self._asked_as: Record = json.loads(json.dumps(asked_as or {}))
        self._lines: list[bytes] = []
        self._is_clean = True
        self._stack = ExitStack()
        self._order: Sequence[str | None] = ()
        self.done: dict[str, Record] = {}

    def __enter__(self) -> Self:
        path = self.path
        if path.is_dir() or not path.name or (path.exists() and not path.is_file()):
            raise self._error(f"{str(path)!r}: not a regular file; give --out a file name")

        def busy(holder: str) -> VideoReasonerError:
            return self._error(
                f"{path}: another run is writing there ({holder}); wait for it, or give --out another name"
            )

        with self._writing():
            path.parent.mkdir(parents=True, exist_ok=True)
            # If the path is a symbolic link, the file that it points to is written.
            target = path.resolve()
            self._stack.enter_context(locked(target.with_name(f".{target.name}.lock"), busy))
        with self._stack:
            self._read()
            self._stack = self._stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def holds(self, record_id: str, row: Mapping[str, Any]) -> bool:
        """Whether there is a record with this id, and for this very row. Needs "row" among the keys kept.

        Args:
            record_id: of the row.
            row: as plain data.
        """
        if record_id not in self.done:
            return False
        there = self.done[record_id]["row"]
        differing = sorted(key for key in {*there, *row} if there.get(key) != row.get(key))
        if differing:
            raise self._error(
                f"{self.path}: holds an answer to another row with the id {record_id!r}, with another "
                f"{', '.join(differing)}; give --out another name"
            )
        return True

    def start(self, order: Sequence[str | None] = ()) -> None:
        """Make the file ready for new records: without failures, and without a last line that was cut short.

        Args:
            order: ids in the order in which `finish` puts the records. None stands for a record without an id.
        """
        self._order = order
        with self._writing():
            if not self._is_clean:
                with replacing(self.path) as partial:
                    partial.write_bytes(b"".join(line + b"\n" for line in self._lines))
            self._lines.clear()
        self._write(b"")

    def append(self, record: Mapping[str, Any]) -> None:
        """Write a record; it is safe from a kill when this returns."""
        self._write(_line(record))

    def finish(self) -> None:
        """Put the records into the order that `start` was given. Records with other ids stay, behind them."""
        places: dict[str | None, deque[tuple[int, int]]] = {}
        start = 0
        with self._writing(), self.path.open("rb") as file:
            # Only the places of lines are kept, because a file of answers may be larger than the memory.
            for line in file:
                places.setdefault(_id_of(json.loads(line)), deque()).append((start, len(line)))
                start += len(line)
            sorted_places = [places[key].popleft() for key in self._order if places.get(key)]
            sorted_places += sorted(place for left in places.values() for place in left)
            if sorted_places == sorted(sorted_places):
                return
            with replacing(self.path) as partial, partial.open("wb") as ordered:
                for start, length in sorted_places:
                    file.seek(start)
                    ordered.write(file.read(length))

    def _write(self, line: bytes) -> None:
        # Closed each time, because some file systems report a full disk only then.
        with self._writing(), self.path.open("ab") as file:
            file.write(line)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._error(
                f"{self.path}: cannot be written ({error.strerror or error}); give --out a place that is writable "
                "and has room"
            ) from error

    def _read(self) -> None:
        if not self.path.exists():
            return
        content = self.path.read_bytes()
        for number, line in enumerate(_whole_lines(content), 1):
            try:
                record = json.loads(line)
                if is_failure(record):
                    continue
                asked_as = {key: record[key] for key in self._asked_as}
                self.done[str(record["id"])] = {key: record[key] for key in self._keep}
            except (ValueError, LookupError, TypeError, AttributeError) as error:
                raise self._error(
                    f"{self.path}, line {number}: not an answer record; give --out another name"
                ) from error
            if asked_as != self._asked_as:
                differing = "; ".join(_differences(asked_as, self._asked_as))
                raise self._error(
                    f"{self.path}: holds answers given in another way ({differing}); give --out another name"
                )
            self._lines.append(line)
        self._is_clean = content == b"".join(line + b"\n" for line in self._lines)


class RecordStream:
    """Records that are written to a stream in a given order. It holds nothing of an earlier run.

    A record waits in memory until all records before it have been written.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._places: dict[str | None, deque[int]] = {}
        self._waiting: dict[int, bytes] = {}
        self._next = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def start(self, order: Sequence[str | None]) -> None:
        """See `RecordFile.start`."""
        for place, key in enumerate(order):
            self._places.setdefault(key, deque()).append(place)

    def append(self, record: Mapping[str, Any]) -> None:
        """Write a record, and those that have waited for it, or keep it until its turn."""
        self._waiting[self._places[_id_of(record)].popleft()] = _line(record)
        while self._next in self._waiting:
            self._stream.write(self._waiting.pop(self._next))
            self._stream.flush()
            self._next += 1

    def finish(self) -> None:
        """See `RecordFile.finish`; nothing is left to do."""


def _id_of(record: Mapping[str, Any]) -> str | None:
    return None if record["id"] is None else str(record["id"])


def _line(record: Mapping[str, Any]) -> bytes:
    # The id comes first, so that the beginning of a line that was cut short is known.
    record = {"id": record["id"], **record}
    try:
        return printable(json.dumps(record, ensure_ascii=False)).encode() + b"\n"
    except UnicodeEncodeError:
        # Half a surrogate pair has no UTF-8; JSON can only escape it.
        return json.dumps(record).encode() + b"\n"


def _whole_lines(content: bytes) -> list[bytes]:
    # As bytes: a kill may cut a character in two, and texts may hold characters at which `splitlines` splits.
    *lines, rest = content.split(b"\n")
    # A record is complete if only the end of its line is missing.
    return [*lines, rest] if rest and not _is_cut(rest) else lines


def _is_cut(line: bytes) -> bool:
    """Whether this is the beginning of a record that was cut short. Other content is kept, so that it is reported."""
    if not (line.startswith(_RECORD_START) or _RECORD_START.startswith(line)):
        return False
    try:
        json.loads(line)
    except ValueError:
        return True
    return False


def _differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    for name in {**then, **now}:
        before, after = then.get(name), now.get(name)
        if isinstance(before, dict) and isinstance(after, dict):
            yield from _differences(before, after)
        elif before != after:
            yield f"{name} {before}, now {after}"
