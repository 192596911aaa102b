"""Whether claims hold: paired differences, question by question, against thresholds that were fixed before. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from experiments.reproduction.recipe import Claim, Test
from experiments.reproduction.results import Results
from videoreasoner.errors import EvaluationError
from videoreasoner.utils.intervals import Estimate


class Verdict(StrEnum):
    """PASS: the whole interval is above the threshold. FAIL: it is below. OPEN: it holds the threshold."""

    PASS = "PASS"
    FAIL = "FAIL"
    OPEN = "open"


@dataclass(frozen=True)
class Finding:
    """What became of a test.

    Attributes:
        difference: arm - other, averaged over seeds, with its interval over videos.
        seeds: the same for each seed alone.
    """

    test: Test
    difference: Estimate
    seeds: list[float]
    verdict: Verdict


def verdict(difference: Estimate, threshold: float) -> Verdict:
    if difference.low > threshold:
        return Verdict.PASS
    return Verdict.FAIL if difference.high < threshold else Verdict.OPEN


def examine(results: Results, test: Test) -> Finding:
    """Carry out a test.

    Raises:
        EvaluationError: one side has no such metric.
    """
    ours = results.values(test.arm, test.mode, test.metric, test.split)
    other = (
        np.zeros((1, 1)) + (test.value or 0.0)
        if test.over is None
        else results.values(test.over, test.other_mode, test.metric, test.split)
    )
    if ours is None or other is None:
        raise EvaluationError(f"claims: {test.arm} or {test.over} has no {test.metric} in the modes named; take it out")
    # An arm that is not trained has one row, which stands for every seed.
    differences = ours - other
    difference = results.estimate(differences, test.split)
    return Finding(test, difference, differences.mean(axis=1).tolist(), verdict(difference, -test.margin))


def judge(findings: list[Finding]) -> Verdict:
    """A claim holds when all of its tests do, and fails when one does."""
    verdicts = {finding.verdict for finding in findings}
    if verdicts == {Verdict.PASS}:
        return Verdict.PASS
    return Verdict.FAIL if Verdict.FAIL in verdicts else Verdict.OPEN


def examine_all(results: Results) -> dict[str, tuple[Claim, list[Finding]]]:
    return {
        name: (claim, [examine(results, test) for test in claim.tests]) for name, claim in results.recipe.claims.items()
    }
