from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.parrot import ParrotBenchmark
from videoreasoner.benchmarks.results import as_data, from_data, result, scores, summarise
from videoreasoner.rows import Row

ROW = Row.model_validate(
    {"id": "v-0", "video": "v.mp4", "question": "?", "options": ["red", "blue"], "answer": "B", "event": [0, 5]}
)
BENCHMARK = ParrotBenchmark((ROW,), Path(), "hash")
ANSWER = {
    "text": "blue",
    "choice": "B",
    "confidence": {"A": 0.25, "B": 0.75},
    "completions": {"answer": "red", "event": "<|event_start|>[0.00, 0.25]<|event_end|>"},
    "duration_s": 10.0,
    "keyframes": [{"time_s": 1.0, "element": "ball", "score": 0.5}],
    "frames": [{"time_s": 0.5, "dense": False}] * 3,
    "settings": {"encoder": "none"},
    "notes": ["a note"],
    "timing": {"total": 2.0},
    "usage": {"tokens_out": 7},
}


def test_a_line_holds_what_was_answered_written_and_scored() -> None:
    line = result(BENCHMARK, ROW, ANSWER, {"data_hash": "hash"})
    assert (line["choice"], line["written_choice"], line["event"]) == ("B", "A", [0.0, 2.5])
    assert (line["true_answer"], line["true_event"]) == ("B", [[0.0, 5.0]])
    assert (line["keyframes"], line["frames"], line["data_hash"]) == ([[1.0, "ball"]], 3, "hash")
    assert line["scores"]["event_iou"] == pytest.approx(0.5)
    assert scores(line) == {**line["scores"], "seconds": 2.0, "frames": 3.0, "tokens_out": 7.0}
    assert json.loads(json.dumps(line)) == line


def test_a_failure_is_a_line_without_scores() -> None:
    line = result(BENCHMARK, ROW, {"id": "v-0", "error": "no video"}, {})
    assert line["error"] == "no video"
    assert "scores" not in line


def item(number: int, value: float, groups: Mapping[str, str]) -> dict[str, Any]:
    return {
        "video": str(number), "groups": groups, "scores": {"answer": value}, "timing": {"total": 1.0}, "frames": 2,
        "usage": {"tokens_out": 1},
    }  # fmt: skip


def test_metrics_are_over_all_questions_and_over_each_group() -> None:
    items = [item(n, float(n > 0), {"split": "ab"[n % 2], "same": "x"}) for n in range(4)]
    metrics = summarise([*items, {"error": "no video", "groups": {"split": "c"}}])
    assert metrics["all"]["all"]["answer"].mean == 0.75
    assert metrics["all"]["all"]["answer"].count == 4
    assert {value: of["answer"].mean for value, of in metrics["split"].items()} == {"a": 0.5, "b": 1.0}
    # A group that holds all questions says nothing new.
    assert metrics.keys() == {"all", "split"}
    assert from_data(json.loads(json.dumps(as_data(metrics)))) == metrics
