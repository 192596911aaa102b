from __future__ import annotations

from pathlib import Path

import pytest

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


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("eval", "synthetic", "--duration", "10"), "raise --duration to 15 or more"),
        (("eval", "synthetic", "--event-share", "0", "2"), "--event-share must be two shares"),
        (("synthetic", "make", "x", "--videos", "0"), "--videos must be a whole number"),
        (("synthetic", "make", "x", "--gap-share", "2"), "--gap-share must lie in"),
        (("synthetic", "make", "x", "--questions", "0"), "--questions must be 1 to 6"),
    ],
)
def test_an_error_about_a_video_names_the_flag(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: tuple[str, ...], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    one_line(run(*given), said)
