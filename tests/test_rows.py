"""Rows: what is accepted, what is kept, and what a bad line is told."""

from __future__ import annotations

import csv
import json
import pickle
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from videoreasoner.errors import RowError
from videoreasoner.prompts import Prompts
from videoreasoner.rows import Row, read_rows, write_rows
from videoreasoner.scoring import score_completion
from videoreasoner.spans import Span
from videoreasoner.tasks import LETTERS, Task

LEAST: dict[str, Any] = {"id": "1", "video": "a.mp4", "question": "Who?"}
FULL: dict[str, Any] = {
    **LEAST,
    "options": ["a dog", "a cat", "Bea"],
    "answer": "B",
    "event": [3.5, 8.0],
    "key_elements": ["a tail"],
    "reasoning": "0.10 to 0.20: a cat with a tail.",
    "duration": 40.0,
    "source": "nextgqa",
}

_numbers = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
_json = st.recursive(
    st.none() | st.booleans() | _numbers | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
_words = st.text(min_size=1, max_size=12).filter(str.strip)
_seconds = st.floats(0, 1e6)
_spans = st.tuples(_seconds, _seconds).map(sorted)


@st.composite
def contents(draw: st.DrawFn) -> dict[str, Any]:
    """Contents of valid lines, in the form in which rows are written."""
    content: dict[str, Any] = {name: draw(_words) for name in LEAST}
    options = draw(st.none() | st.lists(_words, min_size=2, max_size=26, unique_by=lambda o: o.strip().casefold()))
    answers = _words if options is None else st.sampled_from(LETTERS[: len(options)])
    optional = {
        "options": st.just(options),
        "answer": st.none() | answers,
        "event": st.none() | _spans | st.lists(_spans, min_size=2, max_size=3),
        "key_elements": st.none() | st.lists(_words, min_size=1, max_size=3),
        "duration": st.none() | st.floats(1e-3, 1e6),
        "source": st.none() | st.text(max_size=5),
    }
    for name, values in optional.items():
        if (name == "options" and options is not None) or draw(st.booleans()):
            content[name] = draw(values)
    unknown = st.text(max_size=8).filter(lambda name: name not in FULL)
    return {**draw(st.dictionaries(unknown, _json, max_size=3)), **content}


def _file(folder: Path, *lines: Any) -> Path:
    path = folder / "rows.jsonl"
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_bytes("".join(f"{text}\n" for text in texts).encode())
    return path


@given(content=contents())
@settings(max_examples=80, deadline=None)
def test_nothing_is_lost_on_the_way_through_a_row(content: dict[str, Any]) -> None:
    row = Row.model_validate(content)
    assert json.loads(row.to_json_line()) == content
    assert Row.model_validate_json(row.to_json_line()) == row
    assert "\n" not in row.to_json_line()


@given(many=st.lists(contents(), min_size=1, max_size=4))
@settings(max_examples=25, deadline=None)
def test_files_give_back_the_rows_written(many: list[dict[str, Any]]) -> None:
    rows = [Row.model_validate(content) for content in many]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        write_rows(path, rows)
        assert list(read_rows(path)) == rows


@given(lines=st.lists(_json | contents() | st.text(max_size=20), max_size=6))
@settings(max_examples=60, deadline=None)
def test_the_lenient_reader_survives_any_line(lines: list[Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        texts = [json.dumps(line) for line in lines] + ["{}"]
        path = _file(Path(folder), *texts)
        read = list(read_rows(path))
    assert len(read) == len(texts)
    assert f"line {len(texts)}" in str(read[-1])


@given(content=contents())
@settings(max_examples=30, deadline=None)
def test_a_row_feeds_the_tasks_whose_fields_it_has(content: dict[str, Any]) -> None:
    tasks = Row.model_validate(content).tasks()
    assert {str(task) for task in tasks} == {
        name for name in ("event", "answer", "key_elements") if content.get(name) is not None
    }
    reasoned = Row.model_validate({**content, "reasoning": "It is."}).tasks()
    assert reasoned - tasks == ({Task.THINK} if Task.ANSWER in tasks else set())
    assert all(isinstance(task, Task) for task in tasks)


def test_fields_of_a_full_row() -> None:
    row = Row.model_validate(FULL)
    assert row.event == [Span(3.5, 8.0)]
    assert row.options == ["a dog", "a cat", "Bea"]
    assert row.tasks() == set(Task)
    with pytest.raises(ValidationError):
        row.answer = "C"  # type: ignore[misc]


@pytest.mark.parametrize("given_event", [[3, 8], [[3, 8]], ([3.0, 8.0],), [Span(3, 8)]])
def test_one_span_may_be_given_bare_or_in_a_list(given_event: Any) -> None:
    row = Row.model_validate({**LEAST, "event": given_event})
    assert row.event == [Span(3.0, 8.0)]
    assert json.loads(row.to_json_line())["event"] == [3.0, 8.0]


def test_several_spans_keep_their_order() -> None:
    row = Row.model_validate({**LEAST, "event": [[5, 6], [1, 2]]})
    assert row.event == [Span(5.0, 6.0), Span(1.0, 2.0)]


@pytest.mark.parametrize(
    ("answer", "letter"),
    [("B", "B"), (" c ", "C"), ("(a)", "A"), ("b.", "B"), ("A)", "A"), ("BEA ", "C")],
)
def test_answers_are_stored_as_letters(answer: str, letter: str) -> None:
    row = Row.model_validate({**FULL, "answer": answer})
    assert row.answer == letter
    assert Row.model_validate_json(row.to_json_line()) == row


@pytest.mark.parametrize("answer", ["B", "B. blue", "blue", "(b) blue", "B: Blue"])
def test_letters_that_the_options_bring_along_are_left_out(answer: str) -> None:
    content = {"id": "1", "video": "a", "question": "?", "options": ["A. red", "B. blue"], "answer": answer}
    row = Row.model_validate(content)
    assert (row.options, row.answer, row.had_letters) == (["red", "blue"], "B", True)
    assert not Row.model_validate({**content, "options": ["red", "blue"]}).had_letters
    assert Prompts(instruction="").user_text("?", row.options or ()).endswith("A. red\nB. blue")
    for written in ("B. blue", "B", "blue", "A. blue"):
        score = score_completion(row, Task.ANSWER, written, 10.0)
        assert score.value == float(written != "A. blue")


def test_a_capital_letter_is_the_letter_even_if_an_option_says_otherwise() -> None:
    content = {**LEAST, "options": ["b", "c", "a"]}
    assert Row.model_validate({**content, "answer": "B"}).answer == "B"
    assert Row.model_validate({**content, "answer": "b"}).answer == "A"


def test_an_answer_without_options_is_free_text() -> None:
    assert Row.model_validate({**LEAST, "answer": "He ran."}).answer == "He ran."


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"id": " "}, "id: it is blank"),
        ({"id": 7.0}, "id: 7.0 is neither a text nor a whole number"),
        ({"id": True}, "id: True is neither"),
        ({"id": None}, "id: "),
        ({"question": None}, "question: "),
        ({"options": ["a"]}, "options: "),
        ({"options": [str(i) for i in range(27)]}, "options: "),
        ({"options": ["a", " "], "answer": "A"}, "options.1: it is blank"),
        ({"options": ["a", " A "], "answer": "A"}, "options: ' A ' is given twice"),
        ({"options": ["a", 2], "answer": "A"}, "options.1: "),
        ({"answer": "D"}, "answer: 'D' is none of the options; give a letter A to C"),
        ({"answer": "a dog barks"}, "is none of the options"),
        ({"answer": 1}, "answer: "),
        ({"options": None, "answer": ""}, "answer: it is blank"),
        ({"event": []}, "event: give [start, end]"),
        ({"event": [8, 3]}, "event: [8, 3] ends before it starts; swap"),
        ({"event": [[1, 2], [8, 3]]}, "event: [8, 3] ends before it starts"),
        ({"event": [-1, 3]}, "event: [-1, 3] must be finite seconds from the start"),
        ({"event": [1]}, "is not a pair"),
        ({"event": [1, "2"]}, "is not a pair"),
        ({"event": [True, 2]}, "is not a pair"),
        ({"event": "1-2"}, "event: give [start, end]"),
        ({"event": [0, 10**400]}, "finite seconds"),
        ({"key_elements": []}, "key_elements: "),
        ({"key_elements": [""]}, "key_elements.0: it is blank"),
        ({"duration": 0}, "duration: "),
        ({"duration": "40"}, "duration: "),
        ({"duration": 10**400}, "duration: "),
    ],
)
def test_bad_fields_are_named(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    path = _file(tmp_path, {**FULL, **change})
    [error] = read_rows(path)
    assert isinstance(error, RowError)
    message = str(error)
    assert message.startswith(f"{path}, line 1: ")
    assert words in message
    assert message.endswith("correct or remove the line")
    assert "\n" not in message


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"id": "1", "video": "v"}', "question is missing"),
        ('{"id": "1",', "not JSON"),
        ("[1, 2]", "a list and not an object"),
        ('{"id": NaN}', "NaN is not a JSON number"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_bad_lines_are_named_by_number(tmp_path: Path, line: str, words: str) -> None:
    path = _file(tmp_path, LEAST, "", line, LEAST)
    first, bad, last = read_rows(path)
    assert (first, last) == (Row(**LEAST), Row(**LEAST))
    assert isinstance(bad, RowError)
    assert str(bad).startswith(f"{path}, line 3: ")
    assert words in str(bad)


def test_a_line_that_is_not_utf8_does_not_spoil_the_others(tmp_path: Path) -> None:
    path = _file(tmp_path, LEAST, LEAST)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes() + b'{"id": "\xff"}\r\n  \r\n')
    *good, bad = read_rows(path)
    assert good == [Row(**LEAST)] * 2
    assert "line 3: not UTF-8 text; save the file as UTF-8" in str(bad)


def test_files_without_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RowError, match=r"nowhere\.jsonl: no such file; give"):
        read_rows(tmp_path / "nowhere.jsonl")
    with pytest.raises(RowError, match="a folder; give"):
        read_rows(tmp_path)
    with pytest.raises(RowError, match="holds no row; write"):
        list(read_rows(_file(tmp_path, "", "  ")))


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = _file(tmp_path, LEAST)

    def failing() -> Iterator[Row]:
        yield Row(**FULL)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_rows(path, failing())
    assert list(read_rows(path)) == [Row(**LEAST)]
    write_rows(path, [Row(**FULL)])
    assert list(read_rows(path)) == [Row(**FULL)]
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(RowError, match=r"rows\.jsonl: cannot be written"):
        write_rows(tmp_path / "nowhere" / "rows.jsonl", [Row(**LEAST)])


def test_what_json_cannot_say_is_refused() -> None:
    with pytest.raises(RowError, match="row 1: cannot be written as JSON"):
        Row.model_validate({**LEAST, "score": float("nan")}).to_json_line()


def test_text_is_written_readably_and_half_characters_are_escaped() -> None:
    assert "é" in Row.model_validate({**LEAST, "note": "é"}).to_json_line()
    row = Row.model_validate({**LEAST, "note": "\ud800"})
    row.to_json_line().encode()
    assert Row.model_validate(json.loads(row.to_json_line())) == row


def test_unknown_fields_may_have_any_name() -> None:
    content = {**LEAST, "tasks": 1, "video_path": 2, "model_config": 3, "": 4, "self": 5}
    row = Row.model_validate(content)
    assert json.loads(row.to_json_line()) == content
    assert row.tasks() == set()


@pytest.mark.parametrize(
    ("video", "root", "path"),
    [
        ("a/b.mp4", "/data", "/data/a/b.mp4"),
        ("a/b.mp4", None, "a/b.mp4"),
        ("/videos/b.mp4", "/data", "/videos/b.mp4"),
        ("https://host//b.mp4", "/data", "https://host//b.mp4"),
        ("12:30.mp4", "/data", "/data/12:30.mp4"),
    ],
)
def test_relative_videos_are_found_below_the_root(video: str, root: Any, path: str) -> None:
    row = Row.model_validate({**LEAST, "video": video})
    assert row.video_path(root) == path
    assert row.video_path(None if root is None else Path(root)) == path


def test_whole_numbers_are_ids_compared_as_text_and_written_as_they_were(tmp_path: Path) -> None:
    path = _file(tmp_path, {**LEAST, "id": 7}, {**LEAST, "id": "7"})
    number, text = read_rows(path)
    assert isinstance(number, Row)
    assert isinstance(text, Row)
    assert (number.id, number.json_id) == ("7", 7)
    assert (text.id, text.json_id) == ("7", "7")
    assert json.loads(number.to_json_line())["id"] == 7
    assert json.loads(text.to_json_line())["id"] == "7"
    copy = number.model_copy(update={"id": "7#2"})
    assert json.loads(copy.to_json_line())["id"] == "7#2"
    assert pickle.loads(pickle.dumps(number)).json_id == 7


def test_the_same_rows_in_lines_an_array_and_csv(tmp_path: Path) -> None:
    lines = _file(tmp_path, FULL, LEAST)
    array, table = tmp_path / "rows.json", tmp_path / "rows.csv"
    array.write_text(json.dumps([FULL, LEAST], indent=1))
    columns = [*FULL]
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        plain = {key: value if isinstance(value, str) else json.dumps(value) for key, value in FULL.items()}
        writer.writerows([plain, LEAST])
        writer.writerow({**plain, "options": "|".join(FULL["options"]), "event": "3.2|8"})
    read = list(read_rows(array))
    assert read == list(read_rows(lines))
    with lines.open("rb") as stream:
        assert list(read_rows(stream)) == read
    full, least, piped = read_rows(table)
    assert isinstance(piped, Row)
    assert isinstance(full, Row)
    known = set(Row.model_fields)
    assert full.model_dump(include=known) == read[0].model_dump(include=known)  # type: ignore[union-attr]
    assert least == read[1]
    assert piped.options == FULL["options"]
    assert piped.event == [Span(3.2, 8.0)]


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        ({"options": "red"}, "options: "),
        ({"options": "[1, 2]"}, "options.0: "),
        ({"event": "from 3 to 8"}, "event: give [start, end]"),
        ({"duration": "a minute"}, "duration: "),
        ({"question": ""}, "question is missing"),
    ],
)
def test_bad_cells_are_named(tmp_path: Path, cells: dict[str, str], words: str) -> None:
    path = tmp_path / "rows.csv"
    row = {"id": "1", "video": "v.mp4", "question": "What?", **cells}
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([row.keys(), row.values()])
    [error] = read_rows(path)
    assert str(error).startswith(f"{path}, line 2: ")
    assert words in str(error)
