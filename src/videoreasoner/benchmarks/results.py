"""Results: one line for each question, small enough to commit, and the summary over them. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from videoreasoner.benchmarks.benchmark import Benchmark
from videoreasoner.benchmarks.scores import written_answer
from videoreasoner.rows import Row
from videoreasoner.tasks import Task, parse_event
from videoreasoner.utils.intervals import Estimate, estimate

ALL = "all"

# Group key -> value -> metric -> estimate.
Metrics = dict[str, dict[str, dict[str, Estimate]]]


def result(benchmark: Benchmark, row: Row, answer: Mapping[str, Any], hashes: Mapping[str, str]) -> dict[str, Any]:
    """One line of `results.jsonl`.

    Args:
        benchmark: gives scores and groups.
        row: the question with its truth.
        answer: `Answer.to_dict()`, or a record with `error`; that line then has the error and no scores.
        hashes: of what the run is about; they go into every line.
    """
    known = {
        "id": row.id,
        "video": row.video,
        "groups": benchmark.groups(row),
        "true_answer": row.answer,
        "true_event": None if row.event is None else [[span.start_s, span.end_s] for span in row.event],
        **hashes,
    }
    if "error" in answer:
        return {**known, "error": answer["error"]}
    written = answer["completions"]
    event = parse_event(written[Task.EVENT], answer["duration_s"]) if Task.EVENT in written else None
    return {
        **known,
        "answer": answer["text"],
        "choice": answer["choice"],
        "confidence": answer["confidence"],
        "written_choice": written_answer(row, answer).choice,
        "written": written,
        "event": None if event is None else [event.start_s, event.end_s],
        "keyframes": [[keyframe["time_s"], keyframe["element"]] for keyframe in answer["keyframes"]],
        "frames": len(answer["frames"]),
        "notes": answer["notes"],
        "timing": answer["timing"],
        "usage": answer["usage"],
        "scores": benchmark.scores(row, answer),
    }


def scores(result: Mapping[str, Any]) -> dict[str, float]:
    """Metric -> value of all that is averaged: the benchmark's scores, and what the answer cost."""
    return {**result["scores"], **_costs(result)}


def _costs(result: Mapping[str, Any]) -> dict[str, float]:
    return {
        "seconds": result["timing"]["total"],
        "frames": float(result["frames"]),
        "tokens_out": float(result["usage"]["tokens_out"]),
    }


def summarise(results: Sequence[Mapping[str, Any]]) -> Metrics:
    """Every metric over all questions, and over each group that does not hold all of them.

    Questions that could not be asked are left out; a metric counts the questions that it applies to.
    """
    asked = [item for item in results if "error" not in item]
    metrics: Metrics = {ALL: {ALL: _estimates(asked)}}
    for key in sorted({key for item in asked for key in item["groups"]}):
        values = sorted({item["groups"][key] for item in asked if key in item["groups"]})
        if len(values) > 1:
            metrics[key] = {
                value: _estimates([item for item in asked if item["groups"].get(key) == value]) for value in values
            }
    return metrics


def _estimates(results: Sequence[Mapping[str, Any]]) -> dict[str, Estimate]:
    values: dict[str, list[float]] = {}
    videos: dict[str, list[str]] = {}
    for item in results:
        for name, value in scores(item).items():
            values.setdefault(name, []).append(value)
            videos.setdefault(name, []).append(item["video"])
    costs = _costs(results[0]) if results else {}
    return {
        name: estimate(of, videos[name], is_share=name not in costs and all(0 <= value <= 1 for value in of))
        for name, of in values.items()
    }


def as_data(metrics: Metrics) -> dict[str, Any]:
    """Metrics as plain data, for a summary. A bound that is infinite, because there is one video, is None."""
    return {
        key: {value: {name: _plain(e) for name, e in of.items()} for value, of in values.items()}
        for key, values in metrics.items()
    }


def _plain(estimate: Estimate) -> dict[str, Any]:
    return {name: value if math.isfinite(value) else None for name, value in asdict(estimate).items()}


def from_data(data: Mapping[str, Any]) -> Metrics:
    """The reverse of `as_data`."""
    return {
        key: {value: {name: _estimate(e) for name, e in of.items()} for value, of in values.items()}
        for key, values in data.items()
    }


def _estimate(data: Mapping[str, Any]) -> Estimate:
    low, high = (
        data[name] if data[name] is not None else limit for name, limit in (("low", -math.inf), ("high", math.inf))
    )
    return Estimate(data["mean"], low, high, data["count"])
