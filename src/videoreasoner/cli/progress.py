"""How far a long run is: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

# In a log: a line at each tenth, and at least so often.
_TENTHS = 10
_QUIET_S = 30.0


def pace(done: int, total: int, resumed: int, elapsed_s: float) -> str:
    """Rate and time left, of what this run itself did: `2.1 rows/s, 0:40 left`; empty before anything is known."""
    if done <= resumed or elapsed_s <= 0:
        return ""
    rate = (done - resumed) / elapsed_s
    shown = f"{rate:.1f} rows/s" if rate >= 1 else f"{1 / rate:.1f} s a row"
    minutes, seconds = divmod(round((total - done) / rate), 60)
    hours, minutes = divmod(minutes, 60)
    left = f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
    return f"{shown}, {left} left"


class RowProgress:
    """Shows progress on stderr; told (rows done, rows in all), first with what an earlier run had done.

    Args:
        console: where to; by default stderr.
        clock: seconds.
    """

    def __init__(self, console: Console | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console or Console(stderr=True)
        self._clock = clock
        self._is_live = self._console.is_terminal
        columns = (TextColumn("answering"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[pace]}"))
        self._bar = Progress(*columns, console=self._console, disable=not self._is_live)
        self._task = self._bar.add_task("answering", total=None, pace="")
        self._started_s: float | None = None
        self._resumed = 0
        self._said_s, self._said_tenth = 0.0, 0

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def __call__(self, done: int, total: int) -> None:
        now_s = self._clock()
        tenth = _TENTHS * done // total
        if self._started_s is None:
            self._started_s, self._resumed = now_s, done
            self._said_s, self._said_tenth = now_s, tenth
        shown = pace(done, total, self._resumed, now_s - self._started_s)
        if self._is_live:
            self._bar.update(self._task, completed=done, total=total, pace=shown)
        elif tenth > self._said_tenth or now_s - self._said_s >= _QUIET_S:
            self._said_s, self._said_tenth = now_s, tenth
            self._console.out(f"answering: {done} of {total} ({100 * done // total} %), {shown}", highlight=False)
