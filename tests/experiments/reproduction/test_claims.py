from __future__ import annotations

import numpy as np
import pytest

from experiments.reproduction.claims import Finding, Verdict, examine, examine_all, judge, verdict
from experiments.reproduction.recipe import Test
from experiments.reproduction.results import Results, read_results
from tests.experiments.reproduction.made import make_results, shipped
from videoreasoner.utils.intervals import Estimate, estimate


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder = tmp_path_factory.mktemp("results")
    make_results(folder, shipped(), videos=30)
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
def test_a_verdict_is_where_the_interval_lies(low: float, high: float, threshold: float, expected: Verdict) -> None:
    assert verdict(Estimate((low + high) / 2, low, high, 100), threshold) is expected


def test_a_difference_is_paired_averaged_over_seeds_and_drawn_by_videos(results: Results) -> None:
    test = Test(arm="grpo-both", mode="focus", metric="answer", split="plain", over="sft")
    finding = examine(results, test)
    ours, other = (results.values(arm, "focus", "answer", "plain") for arm in ("grpo-both", "sft"))
    assert ours is not None
    assert other is not None
    videos = [f for f, s in zip(results.questions["videos"], results.questions["splits"], strict=True) if s == "plain"]
    assert finding.difference == estimate((ours - other).mean(axis=0), clusters=videos)
    assert np.allclose(finding.seeds, ours.mean(axis=1) - other.mean(axis=1))
    assert np.isclose(np.mean(finding.seeds), finding.difference.mean)


def test_an_arm_against_itself_differs_in_nothing(results: Results) -> None:
    finding = examine(results, Test(arm="sft", mode="focus", metric="event_iou", over="sft", margin=0.01))
    assert (finding.difference.low, finding.difference.high, finding.verdict) == (0.0, 0.0, Verdict.PASS)
    assert finding.seeds == [0.0, 0.0, 0.0]


def test_sides_that_change_places_change_signs(results: Results) -> None:
    there = examine(results, Test(arm="sft", mode="focus", metric="answer", over="think", over_mode="think"))
    back = examine(results, Test(arm="think", mode="think", metric="answer", over="sft", over_mode="focus"))
    assert np.isclose(there.difference.low, -back.difference.high)
    assert np.allclose(there.seeds, [-seed for seed in back.seeds])


def test_an_arm_without_seeds_stands_against_every_seed(results: Results) -> None:
    finding = examine(results, Test(arm="cold-start", mode="focus", metric="event_iou", over="base"))
    ours, base = (results.values(arm, "focus", "event_iou") for arm in ("cold-start", "base"))
    assert ours is not None
    assert base is not None
    assert np.allclose(finding.seeds, ours.mean(axis=1) - base.mean())


def test_a_value_takes_the_place_of_an_arm(results: Results) -> None:
    ours = results.values("cold-start", "focus", "event_parsed")
    assert ours is not None
    finding = examine(results, Test(arm="cold-start", mode="focus", metric="event_parsed", value=0.25))
    assert np.isclose(finding.difference.mean, ours.mean() - 0.25)
    assert finding.verdict is Verdict.PASS
    impossible = Test(arm="cold-start", mode="focus", metric="event_parsed", value=1.25)
    assert examine(results, impossible).verdict is Verdict.FAIL


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [("PASS PASS", Verdict.PASS), ("PASS open", Verdict.OPEN), ("open FAIL PASS", Verdict.FAIL)],
)
def test_a_claim_holds_when_all_of_it_does(results: Results, verdicts: str, expected: Verdict) -> None:
    [finding, *_] = examine_all(results)["C1"][1]
    found = [Finding(finding.test, finding.difference, finding.seeds, Verdict(word)) for word in verdicts.split()]
    assert judge(found) is expected
