"""Notices in the first steps what people otherwise notice after a night: a reward or a parse rate stuck at zero."""

from __future__ import annotations

from collections.abc import Mapping

_WATCHED = ("reward/", "parse_rate/")


class Alarms:
    """Watches the figures of the first steps.

    Args:
        steps: how long a figure may stay at zero.
        goes_on: the run began in an earlier start. Then nothing is watched: what it did in its first steps is not
            known here.
    """

    def __init__(self, steps: int, goes_on: bool = False) -> None:
        self.steps = steps
        self._seen: dict[str, float] = {}
        self._is_over = goes_on

    def update(self, step: int, figures: Mapping[str, float]) -> list[str]:
        """Messages about rewards and parse rates that were 0 in all of the first steps; given once, then silent."""
        if self._is_over:
            return []
        for name, value in figures.items():
            if name.startswith(_WATCHED):
                self._seen[name] = max(self._seen.get(name, 0.0), value)
        if step < self.steps:
            return []
        self._is_over = True
        return [
            f"{name} was 0 in all of the first {step} steps, so nothing is learned from it; look at "
            "rollouts.jsonl, and at whether the cold start taught the format"
            for name, highest in self._seen.items()
            if highest == 0
        ]
