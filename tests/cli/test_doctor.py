from __future__ import annotations

import json
from typing import Any

import pytest

from tests.cli.calling import Run
from videoreasoner.cli.doctor import describe
from videoreasoner.errors import CheckpointError
from videoreasoner.inference.doctor import Diagnosis, Finding
from videoreasoner.inference.reasoner import Reasoner


def test_doctor_examines_and_asks_the_shipped_model(run: Run) -> None:
    result = run("doctor", "--json")
    assert (result.code, result.err) == (0, "")
    assert result.json["ok"] is True
    assert {"videoreasoner", "Python", "torch", "transformers", "PyAV", "FFmpeg"} <= {
        finding["name"] for finding in result.json["versions"]
    }


def test_doctor_fails_where_the_model_cannot_be_loaded(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise CheckpointError("weights are missing")

    monkeypatch.setattr(Reasoner, "from_pretrained", refuse)
    result = run("doctor")
    assert (result.code, result.err) == (1, "")
    assert "Self-check FAILED: broken: CheckpointError: weights are missing" in result.out.splitlines()[-1]


def test_what_is_printed_is_what_was_found() -> None:
    broken = Diagnosis(
        [Finding("torch", "broken: ImportError", ok=False)],
        [Finding("CPU", "2 cores")],
        [Finding("retrieval", "not installed", install="pip install it")],
        Finding("self-check", "broken: ImportError", ok=False),
    )
    text = describe(broken)
    for words in ("broken: ImportError", "2 cores", "install: pip install it", "Self-check FAILED"):
        assert words in text
    record = json.loads(json.dumps(broken.to_dict()))
    assert record["ok"] is False
    assert record["extras"][0]["install"] == "pip install it"
