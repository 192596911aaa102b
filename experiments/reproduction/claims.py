"""Whether claims hold: differences question by question, against thresholds that were fixed before the runs."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from experiments.reproduction.recipe import Test
from experiments.reproduction.results import Results
from videoreasoner.errors import EvaluationError
from videoreasoner.utils.intervals import Estimate


class Verdict(StrEnum):
    """PASS: the whole interval lies above the threshold. FAIL: it lies below. OPEN: the threshold is inside it."""

    PASS = "PASS"
    FAIL = "FAIL"
    OPEN = "open"


@dataclass(frozen=True)
class TestResult:
    """The outcome of a test.

    Attributes:
        difference: variant - other, averaged over seeds, with its interval over videos.
        seeds: the difference for each seed.
    """

    __test__ = False

    test: Test
    difference: Estimate
    seeds: list[float]
    verdict: Verdict


def compare(difference: Estimate, threshold: float) -> Verdict:
    if difference.low > threshold:
        return Verdict.PASS
    return Verdict.FAIL if difference.high < threshold else Verdict.OPEN


def evaluate_test(results: Results, test: Test) -> TestResult:
    """Raises EvaluationError if one side does not have the metric."""
    values = results.values(test.variant, test.mode, test.metric, test.split)
    other: NDArray[np.float64] | None
    if test.over is None:
        other = np.full((1, 1), test.value)
    else:
        other = results.values(test.over, test.other_mode, test.metric, test.split)
    if values is None or other is None:
        raise EvaluationError(f"claims: {test.variant} or {test.over} has no {test.metric}; remove the test")
    # A variant without seeds has one line, which is compared with every seed.
    differences = values - other
    difference = results.estimate(differences, test.split)
    return TestResult(test, difference, differences.mean(axis=1).tolist(), compare(difference, -test.margin))


def judge(verdicts: Collection[Verdict]) -> Verdict:
    """A claim passes if all of its tests pass, and fails if one fails."""
    if set(verdicts) == {Verdict.PASS}:
        return Verdict.PASS
    return Verdict.FAIL if Verdict.FAIL in verdicts else Verdict.OPEN


def evaluate_claims(results: Results) -> dict[str, list[TestResult]]:
    """Claim name -> the outcome of each of its tests."""
    claims = results.recipe.claims.items()
    return {name: [evaluate_test(results, test) for test in claim.tests] for name, claim in claims}
