from __future__ import annotations

import numpy as np
import pytest

from experiments.reproduction.claims import Verdict, compare, evaluate_claims, evaluate_test, judge
from experiments.reproduction.recipe import Test
from experiments.reproduction.results import Results, read_results
from tests.experiments.reproduction.sample_results import make_results, shipped_recipe
from videoreasoner.errors import EvaluationError
from videoreasoner.utils.intervals import Estimate, estimate


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder = tmp_path_factory.mktemp("results")
    make_results(folder, shipped_recipe(), videos=30)
    return read_results(folder)


@pytest.mark.parametrize(
    ("low", "high", "threshold", "expected"),
    [
        (0.01, 0.2, 0.0, Verdict.PASS),
        (-0.01, 0.2, 0.0, Verdict.OPEN),
        (-0.01, 0.2, -0.02, Verdict.PASS),
        (-0.2, -0.01, 0.0, Verdict.FAIL),
        (-0.2, -0.01, -0.02, Verdict.OPEN),
        (0.0, 0.0, 0.0, Verdict.OPEN),
    ],
)
def test_a_verdict_follows_from_the_interval(low: float, high: float, threshold: float, expected: Verdict) -> None:
    assert compare(Estimate((low + high) / 2, low, high, 100), threshold) is expected


def test_a_difference_is_paired_and_its_interval_is_over_seeds_and_videos(results: Results) -> None:
    result = evaluate_test(results, Test(variant="grpo-both", mode="focus", metric="answer", split="plain", over="sft"))
    ours, other = (results.values(variant, "focus", "answer", "plain") for variant in ("grpo-both", "sft"))
    assert ours is not None
    assert other is not None
    videos = [f for f, s in zip(results.questions["videos"], results.questions["splits"], strict=True) if s == "plain"]
    assert result.difference == estimate(ours - other, clusters=videos)
    assert np.allclose(result.seeds, ours.mean(axis=1) - other.mean(axis=1))
    assert np.isclose(np.mean(result.seeds), result.difference.mean)


def test_a_variant_does_not_differ_from_itself(results: Results) -> None:
    test = Test(variant="sft", mode="focus", metric="event_iou", over="sft", margin=0.01)
    result = evaluate_test(results, test)
    assert (result.difference.low, result.difference.high, result.verdict) == (0.0, 0.0, Verdict.PASS)
    assert result.seeds == [0.0, 0.0, 0.0]


def test_swapped_sides_change_the_sign(results: Results) -> None:
    there = Test(variant="sft", mode="focus", metric="answer", over="think", over_mode="think")
    back = Test(variant="think", mode="think", metric="answer", over="sft", over_mode="focus")
    a, b = evaluate_test(results, there), evaluate_test(results, back)
    assert np.isclose(a.difference.low, -b.difference.high)
    assert np.allclose(a.seeds, [-seed for seed in b.seeds])


def test_a_variant_without_seeds_is_compared_with_every_seed(results: Results) -> None:
    result = evaluate_test(results, Test(variant="cold-start", mode="focus", metric="event_iou", over="base"))
    ours, base = (results.values(variant, "focus", "event_iou") for variant in ("cold-start", "base"))
    assert ours is not None
    assert base is not None
    assert np.allclose(result.seeds, ours.mean(axis=1) - base.mean())


def test_a_value_can_replace_the_other_variant(results: Results) -> None:
    ours = results.values("cold-start", "focus", "event_parsed")
    assert ours is not None
    result = evaluate_test(results, Test(variant="cold-start", mode="focus", metric="event_parsed", value=0.1))
    assert np.isclose(result.difference.mean, ours.mean() - 0.1)
    assert result.verdict is Verdict.PASS
    impossible = Test(variant="cold-start", mode="focus", metric="event_parsed", value=1.25)
    assert evaluate_test(results, impossible).verdict is Verdict.FAIL


def test_a_metric_that_a_mode_does_not_have_is_named(results: Results) -> None:
    with pytest.raises(EvaluationError, match="has no event_iou"):
        evaluate_test(results, Test(variant="sft", mode="direct", metric="event_iou", value=0.0))


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [("PASS PASS", Verdict.PASS), ("PASS open", Verdict.OPEN), ("open FAIL PASS", Verdict.FAIL)],
)
def test_a_claim_passes_if_all_tests_pass(verdicts: str, expected: Verdict) -> None:
    assert judge([Verdict(word) for word in verdicts.split()]) is expected


def test_every_test_of_every_claim_is_evaluated(results: Results) -> None:
    found = evaluate_claims(results)
    claims = results.recipe.claims.items()
    assert {name: [result.test for result in tests] for name, tests in found.items()} == {n: c.tests for n, c in claims}
