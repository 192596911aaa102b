"""Outputs sampled for held-out rows while training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.training.runtime.runs import content_for, metrics, train
from videoreasoner.errors import RowError, VideoReasonerError


def test_key_elements_are_sampled_for_rows_that_have_none(folder: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (folder / "data" / "plain.jsonl").read_text().splitlines()]
    held_out = tmp_path / "held-out.jsonl"
    held_out.write_text("".join(json.dumps({**row, "key_elements": None}) + "\n" for row in rows))
    eval_data = [{"path": str(held_out)}]
    out = train(content_for(folder, tmp_path / "out", eval_data=eval_data, eval_rows=2, max_steps=1))
    sampled = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    assert {line["task"] for line in sampled} == {"event", "key_elements", "answer"}
    assert all(line["score"] is None for line in sampled if line["task"] == "key_elements")
    held_out.write_text("".join(json.dumps({**row, "event": None}) + "\n" for row in rows))
    with pytest.raises(VideoReasonerError, match=r"held-out\.jsonl: no row supports the task event"):
        train(content_for(folder, tmp_path / "other", eval_data=eval_data))
    assert not (tmp_path / "other" / "run.json").exists()


def test_held_out_rows_that_cannot_be_read_are_left_out_and_named(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (folder / "data" / "plain.jsonl").read_text().splitlines(keepends=True)
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    held_out = tmp_path / "held-out.jsonl"
    held_out.write_text(json.dumps({**json.loads(lines[0]), "id": "bad", "video": str(broken)}) + "\n" + "".join(lines))
    eval_data = [{"path": str(held_out), "video_root": str(folder / "data")}]
    out = train(content_for(folder, tmp_path / "out", eval_data=eval_data, eval_rows=2, max_steps=1))
    sampled = {json.loads(line)["row"] for line in (out / "samples.jsonl").read_text().splitlines()}
    assert sampled == {json.loads(line)["id"] for line in lines[:2]}
    assert f"eval_data: {held_out}, row bad is left out: {broken}" in capsys.readouterr().err


def test_thinking_is_taught_where_it_is_listed_and_judged_by_the_answer(folder: Path, tmp_path: Path) -> None:
    data = folder / "data" / "plain.jsonl"
    lines = [json.loads(line) for line in data.read_text().splitlines()]
    answers = tmp_path / "answers.jsonl"
    answers.write_text("".join(json.dumps({k: v for k, v in row.items() if k != "reasoning"}) + "\n" for row in lines))
    eval_data = [{"path": str(answers), "video_root": str(folder / "data")}]
    content = content_for(folder, tmp_path / "out", tasks=["think"], eval_data=eval_data, eval_rows=2, max_steps=2)
    first, *_, last = metrics(train(content))
    assert last["loss"] == pytest.approx(last["loss/think"], rel=1e-4)
    for line in (first, last):
        assert {"parse_rate/think", "accuracy/think"} <= line.keys()
    assert not {"loss/answer", "parse_rate/answer"} & last.keys()
    with pytest.raises(RowError, match="supports none of the tasks think"):
        train({**content, "data": eval_data, "output_dir": str(tmp_path / "other")})
