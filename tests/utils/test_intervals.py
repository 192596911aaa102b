from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from videoreasoner.utils.intervals import estimate, t_quantile


@given(st.lists(st.floats(0, 1), min_size=1, max_size=50))
def test_the_interval_of_a_share_holds_it_and_stays_between_0_and_1(values: list[float]) -> None:
    found = estimate(values, is_share=True)
    assert found.count == len(values)
    assert -1e-12 <= found.low <= found.mean + 1e-9
    assert found.mean - 1e-9 <= found.high <= 1 + 1e-12


def test_all_right_is_not_certain_and_wilsons_interval_is_that_of_the_textbook() -> None:
    """40 of 100 right: [0.309, 0.498] with z; t(99) is a little more."""
    found = estimate([1.0] * 40 + [0.0] * 60, is_share=True)
    assert (found.low, found.high) == pytest.approx((0.309, 0.498), abs=0.002)
    all_right = estimate([1.0] * 20, is_share=True)
    assert (all_right.low, all_right.high) == pytest.approx((0.820, 1.0), abs=0.001)
    none_right = estimate([0.0] * 20, is_share=True)
    assert (none_right.low, none_right.high) == pytest.approx((0.0, 0.180), abs=0.001)
    with pytest.raises(ValueError, match="shares must lie"):
        estimate([1.0, 2.0], is_share=True)


def test_the_interval_shrinks_with_the_number_of_questions_and_of_seeds() -> None:
    few, many = estimate([0.0, 1.0] * 20), estimate([0.0, 1.0] * 500)
    assert many.high - many.low < few.high - few.low
    seeds = np.array([[0.4], [0.6]]) + np.zeros((2, 50))
    two, eight = estimate(seeds), estimate(np.tile(seeds, (4, 1)))
    assert eight.high - eight.low < two.high - two.low


def test_equal_values_have_no_interval() -> None:
    assert estimate([0.25] * 9).low == estimate([0.25] * 9).high == 0.25
    assert estimate([[0.25] * 9] * 3) == estimate([0.25] * 9)


def test_it_is_the_t_interval_over_videos_or_over_seeds_where_only_those_vary() -> None:
    """1, 2, 4: mean 7/3, deviation 1.5275, t(2) = 4.303."""
    over_videos = estimate([1.0, 2.0, 4.0])
    assert (over_videos.low, over_videos.high) == pytest.approx((7 / 3 - 3.7946, 7 / 3 + 3.7946), abs=1e-3)
    over_seeds = estimate([[1.0] * 5, [2.0] * 5, [4.0] * 5])
    assert (over_seeds.mean, over_seeds.low, over_seeds.high) == pytest.approx(
        (over_videos.mean, over_videos.low, over_videos.high)
    )


def test_one_video_says_nothing_about_others() -> None:
    one = estimate([[0.2, 0.4], [0.6, 0.8]], clusters=["a", "a"])
    assert (one.mean, one.low, one.high) == (0.5, -math.inf, math.inf)
    limited = estimate([1.0], is_share=True)
    assert (limited.low, limited.high) == (0.0, 1.0)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_a_video_for_each_question_is_as_if_there_were_no_videos(values: list[float]) -> None:
    assert estimate(values, clusters=[f"video {n}" for n in range(len(values))]) == estimate(values)


def test_questions_that_fall_together_count_as_one() -> None:
    once = [0.0, 1.0, 1.0, 0.0, 1.0] * 8
    thrice = [value for value in once for _ in range(3)]
    videos = [number for number in range(len(once)) for _ in range(3)]
    honest, naive = estimate(thrice, clusters=videos), estimate(thrice)
    assert (honest.mean, honest.count) == (naive.mean, 120)
    assert (honest.low, honest.high) == pytest.approx((estimate(once).low, estimate(once).high))
    assert honest.high - honest.low > 1.4 * (naive.high - naive.low)


def test_no_questions_is_an_error() -> None:
    with pytest.raises(ValueError, match="no questions"):
        estimate([])


@pytest.mark.parametrize(
    ("freedom", "quantile"), [(1, 12.7062), (2, 4.30265), (4, 2.77645), (5, 2.57058), (9, 2.26216), (30, 2.04227)]
)
def test_quantiles_are_those_of_the_tables(freedom: int, quantile: float) -> None:
    assert t_quantile(freedom) == pytest.approx(quantile, abs=5e-4)


# Coverage. A share of runs in which the interval holds the truth is itself uncertain: 0.35 points with 4,000 runs.
RUNS = 3000
CASES = {
    # name: seeds, videos, deviation between seeds, between videos, of the rest
    "no seeds": (1, 20, 0.0, 1.0, 1.0),
    "few videos": (3, 12, 0.1, 1.0, 0.3),
    "seeds do not matter": (3, 100, 0.0, 1.0, 1.0),
    "seeds matter a little": (3, 100, 0.05, 1.0, 1.0),
    "seeds matter as videos do": (3, 100, 0.1, 1.0, 1.0),
    "seeds matter more": (3, 100, 0.3, 1.0, 1.0),
    "only seeds matter": (3, 100, 1.0, 0.0, 0.3),
    "videos do not matter": (3, 100, 0.1, 0.0, 1.0),
    "five seeds do not matter": (5, 100, 0.0, 1.0, 1.0),
    "five seeds matter as videos do": (5, 100, 0.1, 1.0, 1.0),
    "five seeds matter more": (5, 100, 0.5, 1.0, 1.0),
}


def draw(rng: np.random.Generator, shape: tuple[int, ...], case: tuple[int, int, float, float, float]) -> NDArray:
    """float[*shape, S, V]: the effect of a seed, of a video, and of both together."""
    seeds, videos, between_seeds, between_videos, rest = case
    return (
        between_seeds * rng.standard_normal((*shape, seeds, 1))
        + between_videos * rng.standard_normal((*shape, 1, videos))
        + rest * rng.standard_normal((*shape, seeds, videos))
    )


def coverage(samples: NDArray, truth: float, is_share: bool = False) -> float:
    found = [estimate(sample, is_share=is_share) for sample in samples]
    return float(np.mean([one.low <= truth <= one.high for one in found]))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_intervals_of_paired_differences_hold_the_truth_in_95_of_100(
    case: tuple[int, int, float, float, float],
) -> None:
    """Of two models that share their videos: the difference of an IoU, say."""
    samples = draw(np.random.default_rng(1), (RUNS,), case)
    assert coverage(samples, 0.0) >= 0.945


# Where seeds decide everything, each seed has every answer right or every answer wrong, and three of them say nothing.
@pytest.mark.parametrize("case", [c for n, c in CASES.items() if n != "only seeds matter"], ids=str)
@pytest.mark.parametrize("share", [0.5, 0.8])
def test_intervals_of_answers_hold_the_truth_in_95_of_100(
    case: tuple[int, int, float, float, float], share: float
) -> None:
    """Right or wrong: an answer is right where its effects lie below a threshold."""
    total = math.sqrt(sum(deviation**2 for deviation in case[2:]))
    samples = draw(np.random.default_rng(2), (RUNS,), case) < NormalDist(0, total).inv_cdf(share)
    assert coverage(samples.astype(float), share, is_share=True) >= 0.945


def test_one_video_is_shown_without_an_interval_and_two_with_one() -> None:
    none = "(one video: no interval)"
    values, one = [0.25, 0.75, 0.5], ["a"] * 3
    assert estimate(values, one, is_share=True).percent() == f"50.0 % {none}"
    assert estimate(values, one, is_share=True).share() == f"0.500 {none}"
    assert estimate(values, one).points() == f"+50.0 {none}"
    for shares in ([0.0, 1.0], [0.0, 0.0], [1.0, 1.0], [0.25, 0.5]):
        assert none not in estimate(shares, is_share=True).percent()
        assert none not in estimate(shares).points()
