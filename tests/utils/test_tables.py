"""Three forms of one file hold the same objects, and a line that is wrong spoils no other."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from videoreasoner.errors import RowError
from videoreasoner.utils.tables import Cells, read_objects


def read(content: bytes, name: str = "rows.jsonl") -> list[tuple[str, dict[str, Any] | RowError]]:
    return list(read_objects(io.BytesIO(content), name))


# What text files cannot hold, or CSV takes for an empty cell, is left out.
TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1).filter(str.strip)


@settings(max_examples=40)
@given(st.lists(st.dictionaries(st.sampled_from(["id", "a b", "c"]), TEXTS, min_size=1), min_size=1), st.booleans())
def test_lines_an_array_and_csv_hold_the_same(objects: list[dict[str, str]], pretty: bool) -> None:
    lines = "".join(json.dumps(item) + "\n" for item in objects)
    array = json.dumps(objects, indent=2 if pretty else None)
    assert [item for _, item in read(lines.encode())] == objects
    assert [item for _, item in read(array.encode())] == objects
    for delimiter in ",;\t":
        table = io.StringIO()
        writer = csv.DictWriter(table, ["id", "a b", "c"], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(objects)
        found = read(b"\xef\xbb\xbf" + table.getvalue().encode(), "Rows.CSV")
        assert [item for _, item in found] == objects
        assert all(isinstance(item, Cells) for _, item in found)


def test_each_object_says_where_it_stands() -> None:
    assert [place for place, _ in read(b'\n{}\n\n{"a": 1}')] == ["rows.jsonl, line 2", "rows.jsonl, line 4"]
    assert [place for place, _ in read(b"\n\n [{},\n {}]")] == ["rows.jsonl, item 1", "rows.jsonl, item 2"]
    table = b'id,text\n1,"two\nlines"\n\n2,x\n'
    assert [place for place, _ in read(table, "t.csv")] == ["t.csv, line 2", "t.csv, line 5"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"id,text\n1,2,3\n4,5\n", "line 2: 3 cells for 2 columns"),
        (b"id,text\n1,\xff\n4,5\n", "line 2: not UTF-8"),
    ],
)
def test_a_bad_line_of_a_table_is_named_and_the_next_one_is_read(content: bytes, words: str) -> None:
    (_, bad), (_, good) = read(content, "t.csv")
    assert words in str(bad)
    assert good == {"id": "4", "text": "5"}


def test_a_quotation_mark_that_is_never_closed_ends_the_table_with_an_error() -> None:
    (_, good), (_, bad) = read(b'id,text\n1,x\n2,"never closed\n3,y\n', "t.csv")
    assert good == {"id": "1", "text": "x"}
    assert "t.csv, line 3: not CSV" in str(bad)


@pytest.mark.parametrize("header", [b"", b"\n", b"id,,text\n1,2,3\n", b"id,id\n1,2\n"])
def test_a_table_without_names_for_its_columns_is_refused(header: bytes) -> None:
    with pytest.raises(RowError, match=r"t\.csv: the first line of a CSV file must name its columns"):
        read(header, "t.csv")


def test_an_array_that_is_cut_short_is_refused_as_a_whole() -> None:
    with pytest.raises(RowError, match=r"rows\.jsonl: not a JSON array"):
        read(b'[{"id": 1}, ')
    # More behind an array makes it a line, and a line has to be an object.
    (_, bad), (_, good) = read(b'[{}]\n{"a": 1}\n')
    assert "line 1: a list and not an object" in str(bad)
    assert good == {"a": 1}


def test_a_stream_is_left_open(tmp_path: Path) -> None:
    for name, content in (("a.csv", b"id\n1\n"), ("a.jsonl", b"{}\n"), ("a.json", b"[{}]")):
        file = io.BytesIO(content)
        assert len(list(read_objects(file, name))) == 1
        assert not file.closed
