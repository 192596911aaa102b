from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.calling import Run, one_line
from videoreasoner.video.pyav.file import VideoFile


def test_demo_makes_a_video_answers_and_pages_and_removes_nothing(run: Run, tmp_path: Path) -> None:
    mine = {tmp_path / "videos" / "00000.mp4": b"mine", tmp_path / "plain.jsonl": b"mine too"}
    for path, content in mine.items():
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    result = run("demo", "--out", tmp_path, "--seed", "5")
    assert (result.code, result.err) == (0, "")
    folder = tmp_path / "seed-5"
    assert str(folder) in result.out
    for name in ("plain", "detail"):
        record = json.loads((folder / f"answer-{name}.json").read_text())
        assert set(record) == {"direct", "focus"}
        page = folder / f"answer-{name}.html"
        assert f"Page     {page}\n" in result.out
        assert record["focus"]["question"] in page.read_text()
        assert "True event" in page.read_text()
    [video] = (folder / "videos").glob("*.mp4")
    with VideoFile(video) as opened:
        assert opened.duration_s == pytest.approx(60)
    assert {path: path.read_bytes() for path in mine} == mine
    before = video.stat().st_mtime_ns
    assert run("demo", "--out", tmp_path, "--seed", "5").code == 0
    assert video.stat().st_mtime_ns == before


def test_demo_into_a_file(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    one_line(run("demo", "--out", tmp_path / "file"), str(tmp_path / "file"))
