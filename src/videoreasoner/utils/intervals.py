"""Means over questions with 95 % intervals, for which videos and seeds of training are samples. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_Z = 1.959963984540054
# Student's t, 97.5 %, for the degrees of freedom for which the expansion below is not exact enough.
_FEW = {1: 12.706205, 2: 4.302653, 3: 3.182446, 4: 2.776445}


@dataclass(frozen=True)
class Estimate:
    """A mean over questions with its 95 % interval."""

    mean: float
    low: float
    high: float
    count: int

    def percent(self) -> str:
        """`81.2 % [77.6, 84.6]`."""
        return f"{100 * self.mean:.1f} % {self.interval(100, 1)}"

    def share(self) -> str:
        """`0.643 [0.621, 0.664]`."""
        return f"{self.mean:.3f} {self.interval(1, 3)}"

    def points(self) -> str:
        """A difference of two shares, in points of per cent: `+12.0 [-3.1, 27.0]`."""
        return f"{100 * self.mean:+.1f} {self.interval(100, 1)}"

    def interval(self, scale: float, digits: int) -> str:
        """`[77.6, 84.6]`; of a single video, which says nothing about others, that there is none."""
        if math.isinf(self.high) or (self.low, self.high) == (0, 1):
            return "(one video: no interval)"
        return f"[{scale * self.low:.{digits}f}, {scale * self.high:.{digits}f}]"


def estimate(
    values: Sequence[float] | NDArray[np.float64],
    clusters: Sequence[Hashable] | None = None,
    is_share: bool = False,
) -> Estimate:
    """Mean and 95 % interval. For a paired comparison, pass the differences.

    The interval is mean +- sqrt(t(V - 1)^2 SE_videos^2 + t(S - 1)^2 SE_seeds^2) for V videos and S seeds. SE_videos is
    the standard error over videos of the mean over seeds, and SE_seeds that over seeds of the mean over videos. Where
    both vary, their sum is the variance of the mean or more (two-way random effects). An interval of this form covers
    at least its nominal share for normal data, however few the seeds are and however the two compare (Banerjee 1960,
    Sankhya 22:355-358). With one seed it is the t interval over videos, and says nothing about other seeds.

    Args:
        values: float[Q], one for each question, or float[S, Q], one row for each seed.
        clusters: the video of each question. Questions about one video are correlated and count as one sample;
            without this, each question is a video of its own.
        is_share: the values lie in [0, 1]. The interval is then Wilson's score interval (Wilson 1927) for as many
            independent questions as have the same standard error (Kott and Carr 1997). It stays in [0, 1], and has a
            width also where all answers are right.

    Returns:
        The estimate. One video says nothing about others, so its interval is everything: [0, 1] or [-inf, inf].

    Raises:
        ValueError: there are no values, or shares outside [0, 1].
    """
    array = np.atleast_2d(np.asarray(values, dtype=np.float64))
    if not array.size:
        raise ValueError("no questions to average over")
    if is_share and not (array.min() >= 0 and array.max() <= 1):
        raise ValueError("shares must lie in [0, 1]")
    count = array.shape[1]
    mean = float(array.mean())
    which = _numbers(range(count) if clusters is None else clusters)
    of_videos = np.bincount(which, array.mean(axis=0) - mean) / count
    videos, seeds = len(of_videos), len(array)
    if videos == 1:
        half = math.inf
    else:
        variance = t_quantile(videos - 1) ** 2 * float((of_videos**2).sum()) * videos / (videos - 1)
        if seeds > 1:
            variance += t_quantile(seeds - 1) ** 2 * float(array.mean(axis=1).var(ddof=1)) / seeds
        half = math.sqrt(variance)
    low, high = _wilson(mean, half, videos) if is_share else (mean - half, mean + half)
    return Estimate(mean, low, high, count)


def _wilson(mean: float, half: float, videos: int) -> tuple[float, float]:
    """The shares whose own standard error, scaled like that of the mean, makes the mean plausible.

    Args:
        half: the half width that would be used without limits; infinite for a single video.
    """
    if math.isinf(half):
        return 0.0, 1.0
    if mean in (0.0, 1.0):
        # Nothing varies, so the videos are taken as independent answers.
        squared = t_quantile(videos - 1) ** 2 / videos
    else:
        squared = half**2 / (mean * (1 - mean))
    centre, reach = mean + squared / 2, math.sqrt(squared * mean * (1 - mean) + squared**2 / 4)
    return (centre - reach) / (1 + squared), (centre + reach) / (1 + squared)


def t_quantile(freedom: int) -> float:
    """The 97.5 % quantile of Student's t, to 0.0005 (Abramowitz and Stegun, 26.7.5)."""
    if freedom in _FEW:
        return _FEW[freedom]
    z, n = _Z, freedom
    return (
        z
        + (z**3 + z) / (4 * n)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * n**3)
        + (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / (92160 * n**4)
    )


def _numbers(clusters: Sequence[Hashable]) -> NDArray[np.int64]:
    """int64[Q], the number of each question's cluster, in the order in which they first occur."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(cluster, len(numbers)) for cluster in clusters])
