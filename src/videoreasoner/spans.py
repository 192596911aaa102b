"""Spans of time: seconds and ratios, overlap, merging. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Span:
    """A part of a video from `start_s` to `end_s`, in seconds, with `start_s <= end_s`."""

    start_s: float
    end_s: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.start_s) and math.isfinite(self.end_s)):
            raise ValueError(f"a span needs finite ends, not [{self.start_s}, {self.end_s}]")
        if self.end_s < self.start_s:
            raise ValueError(f"a span cannot end before it starts: [{self.start_s}, {self.end_s}]")

    @property
    def length_s(self) -> float:
        return self.end_s - self.start_s

    def contains(self, time_s: float) -> bool:
        return self.start_s <= time_s <= self.end_s

    def overlaps(self, other: Span) -> bool:
        """True when the two share at least one instant."""
        return self.start_s <= other.end_s and other.start_s <= self.end_s

    def limited_to(self, duration_s: float) -> Span | None:
        """The part within the video, or None when nothing of positive length is left."""
        start, end = max(0.0, self.start_s), min(duration_s, self.end_s)
        return Span(start, end) if end > start else None

    def moved(self, by_s: float) -> Span:
        """The span, so many seconds later."""
        return Span(self.start_s + by_s, self.end_s + by_s)

    def as_ratios(self, duration_s: float) -> tuple[float, float]:
        """Start and end as shares of the video, each limited to [0, 1]."""
        # Adding 0.0 turns a negative zero, which would be written as "-0.00", into 0.0.
        return (
            min(max(self.start_s / duration_s, 0.0), 1.0) + 0.0,
            min(max(self.end_s / duration_s, 0.0), 1.0) + 0.0,
        )

    @classmethod
    def from_ratios(cls, start: float, end: float, duration_s: float) -> Span:
        return cls(start * duration_s, end * duration_s)

    @classmethod
    def around(cls, time_s: float, width_s: float) -> Span:
        return cls(time_s - width_s / 2, time_s + width_s / 2)


def iou(a: Span, b: Span) -> float:
    """Temporal intersection over union, in [0, 1]; 0 when the union has no length."""
    intersection = min(a.end_s, b.end_s) - max(a.start_s, b.start_s)
    union = max(a.end_s, b.end_s) - min(a.start_s, b.start_s)
    return max(0.0, intersection) / union if union > 0 else 0.0


def best_iou(predicted: Span | None, references: Sequence[Span]) -> float:
    """IoU with the reference that fits best; 0 for a prediction that could not be read."""
    if predicted is None:
        return 0.0
    return max((iou(predicted, reference) for reference in references), default=0.0)


def merge(spans: Iterable[Span]) -> list[Span]:
    """The union as sorted, disjoint spans; spans that touch become one."""
    merged: list[Span] = []
    for span in sorted(spans):
        if merged and span.start_s <= merged[-1].end_s:
            merged[-1] = Span(merged[-1].start_s, max(merged[-1].end_s, span.end_s))
        else:
            merged.append(span)
    return merged
