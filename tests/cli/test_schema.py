"""The printed schemas describe what the commands really read and write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from jsonschema import Draft202012Validator

from tests.cli.calling import Loading, Run
from tests.test_rows import LEAST, contents
from videoreasoner.cli.schema import json_schema
from videoreasoner.rows import Row


def accepts(of: Any, value: Any) -> bool:
    validator = Draft202012Validator(json_schema(of))
    return bool(validator.is_valid(json.loads(json.dumps(value))))


def test_the_command_prints_valid_schemas(run: Run) -> None:
    for of in ("row", "answer"):
        result = run("schema", of)
        assert (result.code, result.err) == (0, "")
        Draft202012Validator.check_schema(result.json)
        assert result.json == json_schema(of)


def test_answers_of_every_mode_and_lines_of_a_batch_fit(
    run: Run, video_file: Path, loading: Loading, tmp_path: Path
) -> None:
    for options in ([], ["-o", "red", "-o", "blue"]):
        for mode in ("focus", "direct", "think"):
            answer = run("ask", video_file, "What?", *options, "--mode", mode, "--json").json
            Draft202012Validator(json_schema("answer")).validate(answer)
    rows, out = tmp_path / "rows.jsonl", tmp_path / "answers.jsonl"
    rows.write_text(json.dumps({"id": 1, "video": str(video_file), "question": "What?"}) + "\n", encoding="utf-8")
    assert run("ask", "--batch", rows, "--out", out).code == 0
    record = json.loads(out.read_text(encoding="utf-8"))
    Draft202012Validator(json_schema("answer")).validate(record)
    assert accepts("row", record["row"])


def test_synthetic_rows_fit(run: Run, tmp_path: Path) -> None:
    assert run("synthetic", "make", tmp_path, "--videos", "1", "--size", "32").code == 0
    for name in ("plain.jsonl", "detail.jsonl"):
        for line in (tmp_path / name).read_text(encoding="utf-8").splitlines():
            Draft202012Validator(json_schema("row")).validate(json.loads(line))


@given(content=contents())
@settings(max_examples=60, deadline=None)
def test_every_row_that_is_read_fits(content: dict[str, Any]) -> None:
    assert accepts("row", content)
    assert accepts("row", json.loads(Row.model_validate(content).to_json_line()))


@pytest.mark.parametrize(
    "wrong",
    [
        {"id": True},
        {"question": "  "},
        {"options": ["one"]},
        {"event": [3.0]},
        {"event": [[1.0, 2.0, 3.0]]},
        {"event": [-1.0, 2.0]},
        {"key_elements": []},
        {"duration": 0},
    ],
)
def test_what_the_schema_refuses_a_row_refuses_too(wrong: dict[str, Any]) -> None:
    assert not accepts("row", {**LEAST, **wrong})
    with pytest.raises(ValueError, match=r"\w"):
        Row.model_validate({**LEAST, **wrong})
