from __future__ import annotations

from pathlib import Path

from tests.cli.calling import Run, one_line
from videoreasoner.rows import read_rows


def test_synthetic_make(run: Run, tmp_path: Path) -> None:
    arguments = ("synthetic", "make", tmp_path, "--videos", "2", "--duration", "12", "--size", "32", "--fps", "20")
    result = run(*arguments, "--seed", "3", "--subset", "held_out", "--detail", "digit")
    assert result.code == 0
    assert result.err.splitlines()[-1].startswith("making videos: 2 of 2 (100 %)")
    rows = list(read_rows(tmp_path / "detail.jsonl"))
    assert len(rows) == 2
    assert all(Path(row.video_path(tmp_path)).is_file() for row in rows)
    assert all("held_out-s3" in row.id for row in rows)
    one_line(run(*arguments, "--seed", "4"), str(tmp_path), "seed")
    one_line(run("synthetic", "make", tmp_path, "--videos", "0"), "videos")
    one_line(run("synthetic", "make", tmp_path / "x", "--detail", "smell"), "smell")
