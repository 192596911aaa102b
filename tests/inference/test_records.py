"""Records of one video and the grouping of rows; tests/inference/test_batch.py tests whole files."""

from __future__ import annotations

import random
from pathlib import Path

from videoreasoner.errors import RowError
from videoreasoner.inference.records import as_data, by_video, unusable_record, video_of
from videoreasoner.rows import Row
from videoreasoner.utils.jsonl import is_failure


def test_rows_are_grouped_by_video_and_keep_their_order() -> None:
    rows = [Row(id=str(n), video=random.Random(n).choice("abc"), question="What?") for n in range(30)]
    groups = by_video(rows, Path("root"))
    assert sorted((row for group in groups for row in group), key=lambda row: int(row.id)) == rows
    assert len(groups) == len({row.video for row in rows})
    for group in groups:
        assert len({row.video for row in group}) == 1
        assert [int(row.id) for row in group] == sorted(int(row.id) for row in group)
    firsts = [int(group[0].id) for group in groups]
    assert firsts == sorted(firsts)


def test_spellings_of_a_path_are_one_video_and_addresses_stay_as_they_are() -> None:
    def named(video: str) -> Row:
        return Row(id=video, video=video, question="What?")

    spellings = [named(video) for video in ("a/b.mp4", "./a/b.mp4", "a//b.mp4", "a/./b.mp4")]
    assert by_video(spellings, None) == [spellings] == by_video(spellings, Path("root"))
    assert video_of(spellings[1], Path("root")) == "root/a/b.mp4"
    for video in ("http://host/a//b.mp4", "file:///a/./b.mp4", "link/../b.mp4"):
        assert video_of(named(video), None) == video


def test_a_line_that_is_no_row_is_a_failure_without_an_id() -> None:
    record = unusable_record(RowError("rows.jsonl, line 2: not JSON"))
    assert is_failure(record)
    assert record["id"] is None


def test_a_row_is_recorded_as_it_was_written() -> None:
    content = {"id": 3, "video": "a.mp4", "question": "What?", "event": [1.0, 2.0], "more": [1]}
    assert as_data(Row.model_validate(content)) == content
