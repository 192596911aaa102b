"""What `RecordFile` itself promises; tests/inference/test_batch.py tests it under real runs, kills and full disks."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from videoreasoner.errors import EvaluationError, SettingError
from videoreasoner.utils.jsonl import RecordFile, RecordStream, is_failure, read_records

RECORDS = [{"id": name, "mode": "focus", "row": {"id": name}, "text": "Où\u2028 là?"} for name in "abc"]


def write(path: Path, records: list[dict[str, Any]], **options: Any) -> None:
    with RecordFile(path, **options) as file:
        file.start()
        for record in records:
            file.append(record)


def test_records_are_read_back_in_order(tmp_path: Path) -> None:
    path = tmp_path / "new" / "records.jsonl"
    write(path, RECORDS[:2])
    write(path, RECORDS[2:])
    assert list(read_records(path)) == RECORDS
    with RecordFile(path, keep=["text"]) as file:
        assert file.done == {name: {"text": "Où\u2028 là?"} for name in "abc"}


def test_a_line_cut_short_at_any_byte_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    write(path, RECORDS)
    whole = path.read_bytes()
    ends = [n + 1 for n, byte in enumerate(whole) if byte == ord("\n")]
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        # A record that lacks nothing but the end of its line is whole.
        there = sum(cut >= end - 1 for end in ends)
        assert len(list(read_records(path))) == there
        with RecordFile(path) as file:
            assert len(file.done) == there
            # Nothing is changed until then.
            assert path.read_bytes() == whole[:cut]
            file.start()
            for record in RECORDS[there:]:
                file.append(record)
        assert path.read_bytes() == whole


def test_failures_are_dropped_and_asked_again(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    failure = {"id": "b", "error": "no video"}
    assert is_failure(failure)
    assert not is_failure(RECORDS[0])
    write(path, [RECORDS[0], failure, {"id": None, "error": "not JSON"}])
    assert len(list(read_records(path))) == 3
    with RecordFile(path) as file:
        assert file.done.keys() == {"a"}
        file.start()
    assert list(read_records(path)) == RECORDS[:1]


def test_the_id_comes_first_so_that_a_cut_line_is_known(tmp_path: Path) -> None:
    write(tmp_path / "records.jsonl", [{"text": "x", "id": "a"}])
    assert (tmp_path / "records.jsonl").read_bytes() == b'{"id": "a", "text": "x"}\n'


def test_another_run_is_kept_out_and_nothing_is_left_of_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    with (
        RecordFile(path),
        pytest.raises(EvaluationError, match="another run is writing"),
        RecordFile(path, error=EvaluationError),
    ):
        pass
    assert not list(tmp_path.iterdir())


def test_a_refused_file_is_not_locked_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    path.write_text("notes\n")
    for _ in range(2):
        with pytest.raises(SettingError, match="line 1: not an answer record"), RecordFile(path):
            pass
    assert path.read_text() == "notes\n"


def test_records_asked_in_another_way_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    write(path, RECORDS, asked_as={"mode": "focus"})
    with pytest.raises(SettingError, match=r"\(mode focus, now direct\)"), RecordFile(path, {"mode": "direct"}):
        pass
    write(path, [{"id": "d", "mode": "focus", "events": (1, 2)}])
    # A tuple is a list after a round trip through JSON.
    path.write_text(path.read_text().splitlines(keepends=True)[-1])
    with RecordFile(path, {"mode": "focus", "events": (1, 2)}) as file:
        assert file.done.keys() == {"d"}


def test_a_record_of_another_row_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    write(path, RECORDS)
    with RecordFile(path, keep=["row"]) as file:
        assert file.holds("a", {"id": "a"})
        assert not file.holds("d", {"id": "d"})
        with pytest.raises(SettingError, match="another row with the id 'a', with another question"):
            file.holds("a", {"id": "a", "question": "?"})


def test_half_a_surrogate_pair_is_escaped(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    write(path, [{"id": "\ud800"}])
    assert [json.dumps(record) for record in read_records(path)] == ['{"id": "\\ud800"}']


def test_a_finished_file_is_in_order_and_keeps_what_it_does_not_know(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    unordered = [{"id": name, "n": n} for n, name in enumerate(["c", None, "old", 7, "a", None])]
    with RecordFile(path) as file:
        file.start(["a", None, "7", "missing", "c", None])
        for record in unordered:
            file.append(record)
        assert list(read_records(path)) == unordered
        file.finish()
    assert [(r["id"], r["n"]) for r in read_records(path)] == [
        ("a", 4), (None, 1), (7, 3), ("c", 0), (None, 5), ("old", 2),
    ]  # fmt: skip
    before = path.stat()
    with RecordFile(path) as file:
        file.start(["a", None, "7", "c", None])
        file.finish()
    # A file in order is not written again.
    assert path.stat().st_ino == before.st_ino


def test_a_stream_gets_each_record_as_soon_as_those_before_it_are_there() -> None:
    stream = io.BytesIO()
    with RecordStream(stream) as records:
        records.start(["a", None, "7"])
        there = []
        for record in ({"id": 7}, {"id": "a"}, {"id": None}):
            records.append(record)
            there.append(stream.getvalue().count(b"\n"))
        records.finish()
    assert there == [0, 1, 3]
    assert [json.loads(line)["id"] for line in stream.getvalue().splitlines()] == ["a", None, 7]
