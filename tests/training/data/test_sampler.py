"""The row stream: every row its share of times, new shuffles, the same from any position."""

from __future__ import annotations

import pickle
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from videoreasoner.training.data.sampler import RowSampler, rows_per_epoch, total_steps

SOURCES = st.lists(st.tuples(st.integers(1, 30), st.floats(0.1, 3.0)), min_size=1, max_size=3)


@given(SOURCES, st.integers(0, 5), st.integers(0, 3))
def test_an_epoch_has_every_row_its_share_of_times(sources: list[tuple[int, float]], seed: int, epoch: int) -> None:
    sizes, weights = zip(*sources, strict=True)
    order = RowSampler(sizes, weights, seed)
    length = rows_per_epoch(sizes, weights)
    counts = Counter(order[epoch * length + place] for place in range(length))
    first = 0
    for size, weight in sources:
        times = [counts[row] for row in range(first, first + size)]
        assert sum(times) == max(1, round(size * weight))
        assert max(times) - min(times) <= 1
        first += size
    assert sum(counts.values()) == length


def test_any_position_gives_the_same_row_however_it_is_reached() -> None:
    straight = RowSampler([7, 5], [1.0, 0.6], 3)
    rows = [straight[position] for position in range(50)]
    for position in (0, 9, 10, 31, 49, 3):
        assert RowSampler([7, 5], [1.0, 0.6], 3)[position] == rows[position]
        assert pickle.loads(pickle.dumps(straight))[position] == rows[position]
    assert rows[:10] != rows[10:20]
    assert rows != [RowSampler([7, 5], [1.0, 0.6], 4)[position] for position in range(50)]


@pytest.mark.parametrize(
    ("epochs", "rows", "step", "steps"),
    [(1, 30, 10, 3), (1, 31, 10, 4), (0.1, 30, 3, 1), (3, 10, 4, 8), (0.5, 7, 100, 1)],
)
def test_steps_go_through_all_rows(epochs: float, rows: int, step: int, steps: int) -> None:
    assert total_steps(epochs, rows, step) == steps
