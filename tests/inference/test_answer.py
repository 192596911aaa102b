from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path

import pytest

from tests.fake_engine import FakeEngine
from tests.inference.report.answers import ANSWER, CASES
from tests.paths import ROOT
from tests.video.videos import Recipe
from videoreasoner import __version__
from videoreasoner.errors import RowError
from videoreasoner.inference.answer import Answer
from videoreasoner.inference.batch import answer_rows
from videoreasoner.inference.reasoner import Reasoner

DOCS = (ROOT / "docs" / "evidence.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", CASES)
def test_an_answer_survives_json(name: str) -> None:
    answer = CASES[name]
    assert Answer.from_dict(json.loads(json.dumps(answer.to_dict()))) == answer


def test_a_batch_record_is_an_answer_with_more() -> None:
    assert Answer.from_dict({"id": "row", **ANSWER.to_dict(), "row": {}}) == ANSWER


def test_an_answer_knows_the_version_that_gave_it() -> None:
    assert ANSWER.version == __version__
    assert Answer.from_dict({**ANSWER.to_dict(), "version": "0.0.1"}).version == "0.0.1"


@pytest.mark.parametrize(
    "record", [{}, {"id": "row", "error": "why"}, {**ANSWER.to_dict(), "event": {"start_s": 2, "end_s": 1}}]
)
def test_other_records_are_refused(record: dict[str, object]) -> None:
    with pytest.raises(RowError, match="not the record of an answer"):
        Answer.from_dict(record)


def test_the_docs_list_the_fields() -> None:
    table = DOCS[DOCS.index("| field |") : DOCS.index("A line of a batch")]
    named = {name for line in table.splitlines()[2:] if line for name in re.findall(r"`(\w+)`", line.split("|")[1])}
    assert named == {field.name for field in fields(Answer)}


def test_the_docs_make_a_page_of_a_batch_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Recipe("video.mp4", count=10).make(tmp_path)
    row = {"id": "row", "video": "video.mp4", "question": "What?", "options": ["red", "blue"], "answer": "A"}
    Path("rows.jsonl").write_text(json.dumps(row) + "\n")
    answer_rows(Reasoner(FakeEngine()), Path("rows.jsonl"), Path("answers.jsonl"))
    [code] = re.findall(r"```python\n(.*?)```", DOCS, flags=re.S)
    exec(code, {})
    assert "The true answer is A." in Path("page.html").read_text()
