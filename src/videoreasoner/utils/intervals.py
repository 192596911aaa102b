"""Means over questions with bootstrap intervals. Pure functions."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_RESAMPLES = 2000


@dataclass(frozen=True)
class Estimate:
    """A mean over questions with its 95 % percentile-bootstrap interval."""

    mean: float
    low: float
    high: float
    count: int

    def percent(self) -> str:
        """`81.2 % [77.6, 84.6]`."""
        return f"{100 * self.mean:.1f} % [{100 * self.low:.1f}, {100 * self.high:.1f}]"

    def share(self) -> str:
        """`0.643 [0.621, 0.664]`."""
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"

    def points(self) -> str:
        """A difference of two shares, in points of per cent: `+12.0 [-3.1, 27.0]`."""
        return f"{100 * self.mean:+.1f} [{100 * self.low:.1f}, {100 * self.high:.1f}]"


def estimate(
    values: Sequence[float] | NDArray[np.float64], seed: int = 0, clusters: Sequence[Hashable] | None = None
) -> Estimate:
    """Mean and interval of one value per question. For a paired comparison, pass the differences.

    Args:
        values: one for each question.
        seed: seed of the resampling.
        clusters: the video of each question. Questions about one video are drawn together, because their answers
            are correlated; without this, intervals would be too narrow.

    Raises:
        ValueError: there are no values.
    """
    array = np.asarray(values, dtype=np.float64)
    if not len(array):
        raise ValueError("no questions to average over")
    sums, counts = _by_cluster(array, range(len(array)) if clusters is None else clusters)
    picks = np.random.default_rng(seed).integers(0, len(sums), (_RESAMPLES, len(sums)))
    low, high = np.percentile(sums[picks].sum(axis=1) / counts[picks].sum(axis=1), [2.5, 97.5])
    return Estimate(float(array.mean()), float(low), float(high), len(array))


def _by_cluster(
    values: NDArray[np.float64], clusters: Sequence[Hashable]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sum and number of each cluster's values, clusters in the order in which they first occur."""
    numbers: dict[Hashable, int] = {}
    which = [numbers.setdefault(cluster, len(numbers)) for cluster in clusters]
    return np.bincount(which, values).astype(np.float64), np.bincount(which).astype(np.float64)
