"""Two runs over the same questions, question by question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from videoreasoner.benchmarks.results import ALL, scores
from videoreasoner.benchmarks.runner import BenchmarkRun
from videoreasoner.errors import EvaluationError
from videoreasoner.utils.intervals import Estimate, estimate


@dataclass(frozen=True)
class Difference:
    """How far run B is above run A in one metric.

    Attributes:
        key, value: the group, "all" and "all" for all questions.
        metric: its name.
        a, b: means of the two runs over the questions that both have it for.
        paired: mean of B - A over those questions, with its interval. An interval that leaves out 0 is evidence.
    """

    key: str
    value: str
    metric: str
    a: float
    b: float
    paired: Estimate


def compare(a: BenchmarkRun, b: BenchmarkRun) -> list[Difference]:
    """Every metric that both runs have, over all questions and over each group.

    Raises:
        EvaluationError: the runs have different data, or one of them could not ask every question.
    """
    hash_a, hash_b = a.summary["hashes"]["data_hash"], b.summary["hashes"]["data_hash"]
    if hash_a != hash_b:
        raise EvaluationError(
            f"{a.folder} and {b.folder} are over different data ({hash_a} and {hash_b}); compare runs of the same "
            "benchmark, videos and questions"
        )
    for run in (a, b):
        if run.failed:
            raise EvaluationError(
                f"{run.folder}: {run.failed} question(s) could not be asked; run it again before comparing"
            )
    answers_b = {item["id"]: item for item in b.results}
    if {item["id"] for item in a.results} != answers_b.keys():
        raise EvaluationError(f"{a.folder} and {b.folder} hold results of different questions; run one of them again")
    pairs = [(item, answers_b[item["id"]]) for item in a.results]
    differences = _differences(ALL, ALL, pairs)
    for key, values in a.metrics.items():
        for value in values if key != ALL else ():
            differences += _differences(key, value, [pair for pair in pairs if pair[0]["groups"].get(key) == value])
    return differences


def _differences(
    key: str, value: str, pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]
) -> list[Difference]:
    found: dict[str, list[tuple[float, float, str]]] = {}
    for item_a, item_b in pairs:
        scores_a, scores_b = scores(item_a), scores(item_b)
        for metric in scores_a:
            if metric in scores_b:
                found.setdefault(metric, []).append((scores_a[metric], scores_b[metric], item_a["video"]))
    differences = []
    for metric, both in found.items():
        values_a, values_b, videos = zip(*both, strict=True)
        paired = estimate([y - x for x, y in zip(values_a, values_b, strict=True)], clusters=videos)
        differences.append(Difference(key, value, metric, fmean(values_a), fmean(values_b), paired))
    return differences
