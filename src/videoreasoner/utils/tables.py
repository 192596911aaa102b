"""The objects in a data file, whatever its form: JSON lines, one JSON array, or CSV with a header.

A file whose name ends in `.csv` is CSV. In other files the first character decides: `[` begins a JSON array, anything
else JSON lines. A line that cannot be read is given as the error that names it, so that it does not stop the others.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any, BinaryIO, NoReturn

from videoreasoner.errors import RowError

Found = tuple[str, dict[str, Any] | RowError]
"""Where it stands, such as "rows.jsonl, line 3", and the object or what is wrong with it."""

_BOM = b"\xef\xbb\xbf"
_DELIMITERS = ",;\t"


class Cells(dict[str, Any]):
    """A line of a CSV file: column -> text. Empty cells are left out."""


def read_objects(file: BinaryIO, name: str) -> Iterator[Found]:
    """Read a file of objects; blank lines are skipped. JSON lines and CSV are read as they are asked for.

    Args:
        file: open for reading, at its start. It need not be seekable, so it may be stdin.
        name: of the file, for messages.

    Raises:
        RowError: the file is a JSON array that cannot be read, or a CSV file without a usable header.
        OSError: the file cannot be read.
    """
    if name.lower().endswith(".csv"):
        yield from _read_csv(file, name)
        return
    start, first = 1, b""
    for number, line in enumerate(file, 1):
        text = line.removeprefix(_BOM) if number == 1 else line
        if text.strip():
            start, first = number, text
            break
    lines: Iterable[bytes] = chain([first], file)
    if first.lstrip().startswith(b"["):
        content = first + file.read()
        items = _array(content, name)
        if items is not None:
            for number, item in enumerate(items, 1):
                place = f"{name}, item {number}"
                yield place, _checked(item, place)
            return
        lines = io.BytesIO(content)
    for number, line in enumerate(lines, start):
        if line.strip():
            place = f"{name}, line {number}"
            yield place, _parse(line, place)


def _array(content: bytes, name: str) -> list[Any] | None:
    """The items of a JSON array; None where more follows it, so that it is a (wrong) line of a file of JSON lines."""
    try:
        items: list[Any] = json.loads(content.decode(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        if isinstance(error, json.JSONDecodeError) and error.msg == "Extra data":
            return None
        raise RowError(f"{name}: not a JSON array ({error}); correct it, or write one JSON object a line") from error
    return items


def _read_csv(file: BinaryIO, name: str) -> Iterator[Found]:
    # Bytes that are not UTF-8 are kept as surrogates, so that their line can be named.
    text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
    try:
        header = text.readline()
        delimiter = max(_DELIMITERS, key=header.count)
        columns = [column.strip() for column in next(csv.reader([header], delimiter=delimiter), [])]
        if not columns or "" in columns or len(set(columns)) < len(columns):
            raise RowError(f"{name}: the first line of a CSV file must name its columns, each once; got {columns}")
        # strict: a quotation mark that is never closed is an error, and does not swallow the rest of the file.
        reader = csv.reader(text, delimiter=delimiter, strict=True)
        while True:
            place = f"{name}, line {reader.line_num + 2}"
            try:
                values = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield place, RowError(f"{place}: not CSV ({error}); correct or remove the line")
                return
            if any(value.strip() for value in values):
                yield place, _cells(columns, values, place)
    finally:
        # The caller closes the file.
        text.detach()


def _cells(columns: list[str], values: list[str], place: str) -> Cells | RowError:
    if len(values) > len(columns):
        return RowError(
            f"{place}: {len(values)} cells for {len(columns)} columns; put cells that hold the delimiter in quotation "
            "marks"
        )
    try:
        "".join(values).encode()
    except UnicodeEncodeError:
        return RowError(f"{place}: not UTF-8 text; save the file as UTF-8")
    return Cells({column: value for column, value in zip(columns, values, strict=False) if value.strip()})


def _parse(line: bytes, place: str) -> dict[str, Any] | RowError:
    try:
        content = json.loads(line.decode(), parse_constant=_refuse_constant)
    except UnicodeDecodeError:
        return RowError(f"{place}: not UTF-8 text; save the file as UTF-8")
    except json.JSONDecodeError as error:
        return RowError(f"{place}: not JSON ({error.msg}, column {error.colno}); correct or remove the line")
    except (ValueError, RecursionError) as error:
        return RowError(f"{place}: not JSON ({error}); correct or remove the line")
    return _checked(content, place)


def _checked(content: Any, place: str) -> dict[str, Any] | RowError:
    if isinstance(content, dict):
        return content
    return RowError(
        f"{place}: a {type(content).__name__} and not an object; "
        'write each row as {"id": ..., "video": ..., "question": ...}, on a line of its own or in one array'
    )


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")
