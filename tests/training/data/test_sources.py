"""Rows from files and data sets; rows that cannot be used are set aside with the reason."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.training.data.made import TASKS
from videoreasoner.errors import MissingExtraError, RowError
from videoreasoner.tasks import Task
from videoreasoner.training.data.sources import read_source, read_sources
from videoreasoner.training.recipe import Source


def test_rows_that_no_video_is_needed_to_refuse(data: Path, tmp_path: Path) -> None:
    good = json.loads(data.read_text().splitlines()[0])
    lines = [
        good,
        {**good, "id": "reversed", "event": [3, 1]},
        {**good, "id": "away", "video": "away.mp4"},
        {"id": "idle", "video": good["video"], "question": "What?"},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)) + "\nnot json\n")
    rows = read_source(Source(path=str(path)), TASKS, str(data.parent))
    # A video may come or go: its row keeps its place in the stream.
    assert [row.id for row in rows.rows] == [good["id"], "away"]
    [absent] = rows.absent
    assert (absent.row, "check video_root" in absent.reason) == ("away", True)
    reasons = {item.row: item.reason for item in rows.skipped}
    assert reasons.keys() == {"line 2", "idle", "line 5"}
    assert "swap the two" in reasons["line 2"]
    assert "supports none of the tasks" in reasons["idle"]
    other = tmp_path / "other.jsonl"
    other.write_text(json.dumps({**good, "key_elements": None}))
    with pytest.raises(RowError, match=r"other\.jsonl: no row supports the task key_elements"):
        read_sources([Source(path=str(other))], TASKS, str(data.parent))
    with pytest.raises(RowError, match=r"none of the 1 rows can be used; the first: .*no such video"):
        read_sources([Source(path=str(other))], TASKS, str(tmp_path))


def test_a_file_that_is_listed_again_has_a_name_of_its_own(data: Path, tmp_path: Path) -> None:
    listed = [Source(path=str(data)), Source(path=str(data), video_root=str(tmp_path))]
    here, elsewhere = read_sources(listed, TASKS, str(data.parent))
    assert (here.name, elsewhere.name) == (str(data), f"{data}#2")
    assert (len(here.absent), len(elsewhere.absent)) == (0, len(elsewhere))
    assert {item.source for item in elsewhere.absent} == {elsewhere.name}


def test_a_data_set_without_its_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(MissingExtraError, match=r"org/name:train: needs `datasets`"):
        read_source(Source(dataset="org/name"), TASKS, None)


def test_rows_of_one_id_are_told_apart(data: Path, tmp_path: Path) -> None:
    lines = [line for line in data.read_text().splitlines() if json.loads(line).get("event")]
    same = [json.dumps({**json.loads(line), "id": "x"}) for line in lines]
    (tmp_path / "rows.jsonl").write_text("\n".join(same) + "\n")
    source = Source(path=str(tmp_path / "rows.jsonl"), video_root=str(data.parent))
    rows = read_source(source, {Task.EVENT: frozenset({Task.EVENT})}, None)
    assert [row.id for row in rows.rows] == ["x", *(f"x#{n}" for n in range(2, len(lines) + 1))]


def test_sources_of_other_files_have_other_names() -> None:
    names = {Source(dataset="json", data_files=file, split=split).name for file in "ab" for split in ("train", "test")}
    assert names == {"json:a:train", "json:a:test", "json:b:train", "json:b:test"}
    assert Source(dataset="some/rows").name == "some/rows:train"
