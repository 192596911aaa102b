"""How far a long task is: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

# A log gets a line at each tenth and at least every half minute, but never more than one a second.
_TENTHS = 10
_LONGEST_PAUSE_S = 30.0
_SHORTEST_PAUSE_S = 1.0


def pace(done: float, left: float, elapsed_s: float, unit: str) -> str:
    """Speed and time left, such as `2.1 rows/s, 0:40 left`; empty before anything is known.

    Args:
        done: units done in `elapsed_s`.
        left: units that are left.
        elapsed_s: seconds.
        unit: what is counted, in the plural.
    """
    if done <= 0 or elapsed_s <= 0:
        return ""
    rate = done / elapsed_s
    speed = f"{rate:.1f} {unit}/s" if rate >= 1 else f"{1 / rate:.1f} s per {unit.removesuffix('s')}"
    minutes, seconds = divmod(round(left / rate), 60)
    hours, minutes = divmod(minutes, 60)
    clock = f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
    return f"{speed}, {clock} left"


class StageBar:
    """Shows on stderr what one task is doing. Call it with (stage, done, total).

    On a terminal it is a bar that vanishes at the end of the block. A log gets a line at most every half minute, and
    none for a shorter task. Nothing is shown with `--quiet`.

    Args:
        console, clock: as for `ProgressBar`.
    """

    def __init__(self, console: Console | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console or Console(stderr=True)
        self._clock = clock
        self._is_quiet = not logging.getLogger("videoreasoner").isEnabledFor(logging.WARNING)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        is_hidden = self._is_quiet or not self._console.is_terminal
        self._bar = Progress(*columns, console=self._console, disable=is_hidden, transient=True)
        self._task = self._bar.add_task("", total=None)
        self._logged_s = clock()

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Show that `done` steps of `total` of a stage are done."""
        if self._is_quiet:
            return
        if self._console.is_terminal:
            self._bar.update(self._task, description=stage, completed=done, total=total)
        elif (now_s := self._clock()) - self._logged_s >= _LONGEST_PAUSE_S:
            self._logged_s = now_s
            self._console.out(f"{stage}: {done} of {total}" if total > 1 else stage, highlight=False)


class ProgressBar:
    """Shows progress on stderr. Call it with (done, total), the first time with what an earlier run had done.

    Use it as a context manager: the terminal is given back at the end of the block.

    Nothing is shown while the logger "videoreasoner" does not take warnings, as with `--quiet`.

    Attributes:
        done, total: as they were told last.

    Args:
        name: what is being done, such as "answering".
        unit: what the speed counts, in the plural.
        units_per_step: units in one step of `done`, such as the rows of a training step.
        console: where to write; by default stderr.
        clock: gives seconds.
    """

    def __init__(
        self,
        name: str,
        unit: str = "rows",
        units_per_step: int = 1,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name, self._unit, self._units_per_step = name, unit, units_per_step
        self._console = console or Console(stderr=True)
        self._clock = clock
        self._is_quiet = not logging.getLogger("videoreasoner").isEnabledFor(logging.WARNING)
        columns = (TextColumn(name), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[status]}"))
        self._bar = Progress(*columns, console=self._console, disable=self._is_quiet or not self._console.is_terminal)
        self._task = self._bar.add_task(name, total=None, status="")
        self.done = self.total = 0
        self._first: tuple[int, float] | None = None
        self._logged_s, self._logged_tenth = 0.0, 0

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def __call__(self, done: int, total: int, status: str = "") -> None:
        """Show that `done` steps of `total` are done; `status` is shown beside them."""
        self.done, self.total = done, total
        if self._is_quiet:
            return
        now_s, tenth = self._clock(), _TENTHS * done // max(total, 1)
        if self._first is None:
            self._first = done, now_s
            self._logged_s, self._logged_tenth = now_s, tenth
        first, started_s = self._first
        units = self._units_per_step
        speed = pace((done - first) * units, (total - done) * units, now_s - started_s, self._unit)
        shown = ", ".join(part for part in (status, speed) if part)
        if self._console.is_terminal:
            self._bar.update(self._task, completed=done, total=total, status=shown)
            return
        pause_s = now_s - self._logged_s
        is_last = done == total and done > first
        is_due = tenth > self._logged_tenth and pause_s >= _SHORTEST_PAUSE_S
        if is_last or is_due or pause_s >= _LONGEST_PAUSE_S:
            self._logged_s, self._logged_tenth = now_s, tenth
            line = f"{self._name}: {done} of {total} ({100 * done // max(total, 1)} %)"
            self._console.out(f"{line}, {shown}" if shown else line, highlight=False)
