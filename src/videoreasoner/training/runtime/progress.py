"""How far training is: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from transformers import TrainerCallback

# In a log: at least so often.
_QUIET_S = 30.0


def status(figures: dict[str, float], rows_per_s: float, left_s: float) -> str:
    """`loss 0.812, reads 97 %, 1.4 rows/s, 0:12:40 left`, of what is known."""
    parts = []
    if "loss" in figures:
        parts.append(f"loss {figures['loss']:.3f}")
    if "reward" in figures:
        parts.append(f"reward {figures['reward']:.3f}")
    if "parse_rate" in figures:
        parts.append(f"reads {100 * figures['parse_rate']:.0f} %")
    if figures.get("rows_skipped"):
        parts.append(f"{figures['rows_skipped']:.0f} rows skipped")
    if rows_per_s > 0:
        minutes, seconds = divmod(round(left_s), 60)
        parts.append(f"{rows_per_s:.3g} rows/s, {minutes // 60}:{minutes % 60:02d}:{seconds:02d} left")
    return ", ".join(parts)


class ProgressBar(TrainerCallback):
    """Shows loss, parse rate of the last samples, rows a second and time left on stderr, in the main process."""

    def __init__(self, run: Any, console: Console | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._run, self._clock = run, clock
        self._console = console or Console(stderr=True)
        self._is_live = self._console.is_terminal
        columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[status]}"))
        self._bar = Progress(*columns, console=self._console, disable=not self._is_live)
        self._task = self._bar.add_task("training", total=None, status="")
        self._figures: dict[str, float] = {}
        self._started_s = self._said_s = 0.0
        self._first_step = 0

    def close(self) -> None:
        """Give the terminal back."""
        self._bar.stop()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if not state.is_world_process_zero:
            return
        self._started_s = self._said_s = self._clock()
        self._first_step = state.global_step
        rows, step = sum(map(len, self._run.sources)), state.global_step
        begins = f"goes on at step {step}" if step else "begins"
        self._console.out(f"training {begins}: {rows} rows, {state.max_steps} steps", highlight=False)
        self._bar.update(self._task, total=state.max_steps, completed=step)
        self._bar.start()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        self._figures |= {name: value for name, value in (logs or {}).items() if isinstance(value, (int, float))}
        if not state.is_world_process_zero or "loss" not in (logs or {}):
            return
        now_s = self._clock()
        done = state.global_step - self._first_step
        step_s = (now_s - self._started_s) / done if done else 0.0
        rate = self._run.step_rows / step_s if step_s > 0 else 0.0
        shown = status(self._figures, rate, step_s * (state.max_steps - state.global_step))
        if self._is_live:
            self._bar.update(self._task, completed=state.global_step, status=shown)
        elif now_s - self._said_s >= _QUIET_S or state.global_step == state.max_steps:
            self._said_s = now_s
            self._console.out(f"step {state.global_step} of {state.max_steps}: {shown}", highlight=False)
