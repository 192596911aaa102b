"""Rows: the validated lines of data files. Error messages name the line and say what to do."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    SerializerFunctionWrapHandler,
    ValidationError,
    WithJsonSchema,
    field_serializer,
    field_validator,
    model_validator,
)

from videoreasoner.errors import RowError
from videoreasoner.spans import Span
from videoreasoner.tasks import LETTERS, Task, without_own_letters
from videoreasoner.utils.files import replacing
from videoreasoner.utils.tables import Cells, read_objects
from videoreasoner.utils.validation import explain

_LONGEST_S = sys.float_info.max
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*://")


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("it is blank")
    return text


def _as_text(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is neither a text nor a whole number")
    return value


_WORDS_SCHEMA = {"type": "string", "pattern": r"\S"}
_PAIR_SCHEMA = {"type": "array", "items": {"type": "number", "minimum": 0}, "minItems": 2, "maxItems": 2}
_SPANS_SCHEMA = {"anyOf": [_PAIR_SCHEMA, {"type": "array", "items": _PAIR_SCHEMA, "minItems": 1}, {"type": "null"}]}

_Words = Annotated[str, AfterValidator(_not_blank), WithJsonSchema(_WORDS_SCHEMA)]
_Id = Annotated[_Words, BeforeValidator(_as_text), WithJsonSchema({"anyOf": [_WORDS_SCHEMA, {"type": "integer"}]})]


RowFields = Mapping[Task, frozenset[Task]]
"""Task -> the row fields, named by their tasks (see `Row.tasks`), of which a row needs one to be used for the task."""


class Row(BaseModel, extra="allow", frozen=True):
    """A question about a video, with what is known about its answer.

    Fields that are not listed here are kept and written again. A field given as null counts as
    unknown.

    Attributes:
        id: name of the row. A line may give a whole number; it is compared as text and written again as it was.
        video: a path or a URL; see `video_path`.
        question: the question alone, without options.
        options: 2 to 26 texts, different from each other (whatever their case). Letters that they bring along, as in
            "A. red", are left out; see `tasks.without_own_letters`.
        answer: with options, the letter of the right one; otherwise free text. The words of an
            option are accepted and stored as its letter. A capital letter within the options
            always means the letter, even if an option consists of that letter.
        event: when the answer can be seen, in seconds from the start of the video. A line may say
            `[s, e]` or `[[s, e], ...]`; one span is written as `[s, e]`.
        key_elements: what there is to look for, at least one.
        reasoning: the way to the answer, as text.
        duration: length of the video in seconds, > 0.
        source: the data set that the row comes from.

    Raises:
        pydantic.ValidationError: on construction, for any other content.
    """

    id: _Id
    video: _Words
    question: _Words
    options: Annotated[list[_Words], Field(min_length=2, max_length=len(LETTERS))] | None = None
    answer: _Words | None = None
    event: Annotated[list[Span] | None, WithJsonSchema(_SPANS_SCHEMA)] = None
    key_elements: Annotated[list[_Words], Field(min_length=1)] | None = None
    reasoning: _Words | None = None
    duration: Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)] | None = None
    source: str | None = None

    _had_letters: bool = PrivateAttr(default=False)
    _number: int | None = PrivateAttr(default=None)

    @field_validator("event", mode="before")
    @classmethod
    def _spans(cls, value: Any) -> list[Span] | None:
        if value is None:
            return None
        if not isinstance(value, (list, tuple)) or not value:
            raise ValueError("give [start, end] in seconds, or a list of such pairs")
        pairs = [value] if _is_number(value[0]) else value
        return [_span(pair) for pair in pairs]

    @field_validator("options")
    @classmethod
    def _distinct(cls, value: list[str] | None) -> list[str] | None:
        seen: set[str] = set()
        for option in value or ():
            if _plain(option) in seen:
                raise ValueError(f"{option!r} is given twice; give each option once")
            seen.add(_plain(option))
        return value

    @model_validator(mode="before")
    @classmethod
    def _letter(cls, data: Any) -> Any:
        # Before validation of the fields, because a frozen row cannot be changed afterwards.
        if not isinstance(data, dict):
            return data
        options, answer = data.get("options"), data.get("answer")
        if not isinstance(options, (list, tuple)) or not isinstance(answer, str):
            return data
        if not 2 <= len(options) <= len(LETTERS) or not all(isinstance(o, str) for o in options):
            return data
        return {**data, "answer": _choice(answer, options)}

    @model_validator(mode="wrap")
    @classmethod
    def _remember_what_was_given(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if not isinstance(data, dict):
            return handler(data)
        options, given_id = data.get("options"), data.get("id")
        if isinstance(options, (list, tuple)) and all(isinstance(option, str) for option in options):
            row = handler({**data, "options": without_own_letters(options)})
            row._had_letters = row.options != list(options)
        else:
            row = handler(data)
        row._number = given_id if isinstance(given_id, int) else None
        return row

    @property
    def had_letters(self) -> bool:
        """Whether the options brought their own letters, which were left out."""
        return self._had_letters

    @field_serializer("event", mode="wrap")
    def _pairs(self, value: list[Span] | None, _: SerializerFunctionWrapHandler) -> Any:
        if value is None:
            return None
        pairs = [[span.start_s, span.end_s] for span in value]
        return pairs[0] if len(pairs) == 1 else pairs

    def tasks(self) -> set[Task]:
        """The tasks whose reference the row has. A thought needs reasoning and answer."""
        known = {
            Task.EVENT: self.event,
            Task.KEY_ELEMENTS: self.key_elements,
            Task.ANSWER: self.answer,
            Task.THINK: self.answer and self.reasoning,
        }
        return {task for task, value in known.items() if value is not None}

    def usable_tasks(self, fields: RowFields) -> list[Task]:
        """The tasks that the row can be used for. This decides everywhere whether a row is used in training.

        Args:
            fields: for each task, the fields (named by their task) of which the row needs at least one.
        """
        known = self.tasks()
        return [task for task, needed in fields.items() if needed & known]

    def video_path(self, root: str | os.PathLike[str] | None = None) -> str:
        """Where the video is: a relative path is resolved against the root.

        Absolute paths and URLs are returned unchanged, and so is every path without a root. The
        result is a string, because a `Path` would change a URL.
        """
        if root is None or _URL.match(self.video):
            return self.video
        return os.path.join(root, self.video)

    @property
    def json_id(self) -> str | int:
        """The id as the line gave it: a text or a whole number."""
        # A copy may have been given another id.
        return self._number if self._number is not None and str(self._number) == self.id else self.id

    def to_json_line(self) -> str:
        """One line of JSON without its line end: the fields that were given, then unknown ones.

        Raises:
            RowError: an unknown field holds a value that JSON does not have, such as NaN.
        """
        content = {**self.model_dump(exclude_unset=True), "id": self.json_id}
        try:
            line = json.dumps(content, ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise RowError(
                f"row {self.id}: cannot be written as JSON ({error}); use numbers, texts, lists and objects"
            ) from error
        try:
            line.encode()
        except UnicodeEncodeError:
            # Half a surrogate pair has no UTF-8; JSON can only escape it.
            return json.dumps(content)
        return line


def read_rows(source: str | os.PathLike[str] | BinaryIO) -> Iterator[Row | RowError]:
    """The rows of a file of JSON lines, a JSON array or CSV, read as they are asked for; blank lines are skipped.

    See `utils.tables` for how the form is told, and `_from_cells` for what the cells of a CSV file mean. A line that is
    not a valid row is yielded as the error that names it, so that it does not stop the others.

    Args:
        source: a path, or a stream of bytes such as `sys.stdin.buffer`.

    Raises:
        RowError: there is no such file (at once), it cannot be read as a whole, or it holds no row (at the end).
    """
    if not isinstance(source, (str, os.PathLike)):
        return _rows_of(source, "stdin")
    name = os.fsdecode(source)
    if not os.path.exists(name):
        raise RowError(f"{name}: no such file; give the path of a file of rows (JSON lines, a JSON array or CSV)")
    if os.path.isdir(name):
        raise RowError(f"{name}: a folder; give the path of a file of rows inside it")
    return _read(name)


def write_rows(path: str | os.PathLike[str], rows: Iterable[Row]) -> None:
    """Write a JSON-lines file, which is complete or missing at any time; an older one is replaced.

    Raises:
        RowError: the file cannot be written.
    """
    try:
        with replacing(Path(path)) as temporary, temporary.open("wb") as file:
            file.writelines(f"{row.to_json_line()}\n".encode() for row in rows)
    except OSError as error:
        raise RowError(
            f"{os.fsdecode(path)}: cannot be written ({error.strerror or error}); "
            "give a file name in a folder that exists, is writable and has room"
        ) from error


def _read(name: str) -> Iterator[Row | RowError]:
    try:
        # As bytes, so that one line that is not UTF-8 does not stop the others.
        with open(name, "rb") as file:
            yield from _rows_of(file, name)
    except OSError as error:
        raise RowError(f"{name}: cannot be read ({error.strerror or error}); check the path and its rights") from error


def _rows_of(file: BinaryIO, name: str) -> Iterator[Row | RowError]:
    is_empty = True
    for place, content in read_objects(file, name):
        is_empty = False
        yield content if isinstance(content, RowError) else _validated(content, place)
    if is_empty:
        raise RowError(f"{name}: holds no row; write one JSON object on each line")


def _validated(content: dict[str, Any], place: str) -> Row | RowError:
    try:
        return Row.model_validate(_from_cells(content) if isinstance(content, Cells) else content)
    except ValidationError as error:
        return RowError(f"{place}: {explain(error)}; correct or remove the line")


def _from_cells(cells: Cells) -> dict[str, Any]:
    """The fields that a line of a CSV file holds.

    `options` and `key_elements` are a JSON array of texts, or texts with `|` between them. `event` is JSON, as in a
    JSON line, or two numbers with `|` between them. `duration` is a number. All other cells are texts, `id` as well.
    """
    fields = dict(cells)
    for name in ("options", "key_elements"):
        if name in cells:
            listed = _json(cells[name])
            fields[name] = listed if isinstance(listed, list) else [part.strip() for part in cells[name].split("|")]
    if "event" in cells:
        pair = [_json(part) for part in cells["event"].split("|")]
        fields["event"] = pair[0] if len(pair) == 1 else pair
    if "duration" in cells:
        fields["duration"] = _json(cells["duration"])
    return fields


def _json(text: str) -> Any:
    """What a text says in JSON; a text that is not JSON stays as it is, for the message about its field."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _span(pair: Any) -> Span:
    if isinstance(pair, Span):
        start, end = pair.start_s, pair.end_s
    elif isinstance(pair, (list, tuple)) and len(pair) == 2 and all(map(_is_number, pair)):
        start, end = pair
    else:
        raise ValueError(f"{pair!r} is not a pair [start, end] of seconds")
    # Compared as it is, because an integer may be too large for a float.
    if not (0 <= start <= _LONGEST_S and 0 <= end <= _LONGEST_S):
        raise ValueError(f"[{start}, {end}] must be finite seconds from the start of the video")
    if end < start:
        raise ValueError(f"[{start}, {end}] ends before it starts; swap the two")
    return Span(float(start), float(end))


def _plain(text: str) -> str:
    return text.strip().casefold()


def _choice(answer: str, options: list[str] | tuple[str, ...]) -> str:
    """The letter that an answer means.

    This is stricter than reading a model's answer: a text that only begins with a letter is a mistake in
    the data. Capital letters come first, so that a stored letter is always read as itself.
    """
    letters = LETTERS[: len(options)]
    text = answer.strip()
    if len(text) == 1 and text in letters:
        return text
    words = [_plain(option) for option in options]
    if _plain(text) in words:
        return letters[words.index(_plain(text))]
    bare = re.fullmatch(r"\(?([A-Za-z])[).:]?", text)
    if bare and bare[1].upper() in letters:
        return bare[1].upper()
    # "B. blue", as the options of some data sets are written.
    for letter, word in zip(letters, words, strict=True):
        if re.fullmatch(rf"\(?{letter}[).:]\s+{re.escape(word)}", text, re.IGNORECASE):
            return letter
    raise ValueError(
        f"answer: {answer!r} is none of the options; give a letter A to {letters[-1]}, or the words of an option"
    )
