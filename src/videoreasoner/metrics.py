"""Metrics over questions, with intervals. Pure functions; an unreadable prediction always counts as wrong."""

from __future__ import annotations

from collections.abc import Sequence
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


def estimate(values: Sequence[float] | NDArray[np.float64], seed: int = 0) -> Estimate:
    """Mean and interval of one value a question. For a paired comparison pass the differences.

    Raises:
        ValueError: there are no values.
    """
    array = np.asarray(values, dtype=np.float64)
    if not len(array):
        raise ValueError("no questions to average over")
    picks = np.random.default_rng(seed).integers(0, len(array), (_RESAMPLES, len(array)))
    low, high = np.percentile(array[picks].mean(axis=1), [2.5, 97.5])
    return Estimate(float(array.mean()), float(low), float(high), len(array))


def recall_at(ious: Sequence[float], threshold: float) -> list[float]:
    """1.0 where the IoU reaches the threshold (R@1), else 0.0."""
    return [float(value >= threshold) for value in ious]
