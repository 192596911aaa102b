"""Notices in the first steps what people otherwise notice after a night: a reward or a parse rate stuck at zero."""

from __future__ import annotations

from collections.abc import Mapping

_WATCHED = ("reward/", "parse_rate/")


class Alarms:
    """Watches the figures of the first steps.

    Args:
        steps: how long a figure may stay at zero.
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self._seen: dict[str, float] = {}
        self._first: int | None = None

    def update(self, step: int, figures: Mapping[str, float]) -> list[str]:
        """Messages about rewards and parse rates that were 0 in every one of the first steps; given once, then silent.

        A run that goes on behind its first steps is not watched: what it did in them is not known here.
        """
        self._first = step if self._first is None else self._first
        if self.steps < self._first:
            return []
        for name, value in figures.items():
            if name.startswith(_WATCHED):
                self._seen[name] = max(self._seen.get(name, 0.0), value)
        if step < self.steps:
            return []
        self._first = self.steps + 1
        return [
            f"{name} was 0 in all of the first {self.steps} steps, so nothing is learned from it; look at "
            "rollouts.jsonl, and at whether the cold start taught the format"
            for name, highest in self._seen.items()
            if highest == 0
        ]
