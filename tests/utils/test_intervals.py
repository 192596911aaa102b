from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from videoreasoner.utils.intervals import estimate


@given(st.lists(st.floats(0, 1), min_size=1, max_size=50))
def test_the_interval_holds_the_mean_and_stays_within_the_values(values: list[float]) -> None:
    found = estimate(values)
    assert found.count == len(values)
    assert min(values) - 1e-9 <= found.low <= found.mean + 1e-9
    assert found.mean - 1e-9 <= found.high <= max(values) + 1e-9


def test_the_interval_shrinks_with_the_number_of_questions() -> None:
    few, many = estimate([0.0, 1.0] * 20), estimate([0.0, 1.0] * 500)
    assert many.high - many.low < few.high - few.low


def test_a_constant_has_no_interval_and_the_same_seed_gives_the_same_one() -> None:
    assert estimate([0.25] * 9).low == estimate([0.25] * 9).high == 0.25
    assert estimate([0, 1, 1], seed=3) == estimate([0, 1, 1], seed=3)


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
