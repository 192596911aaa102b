"""How far training is, on the one progress bar."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rich.console import Console
from transformers import TrainerCallback

from videoreasoner.utils.progress import ProgressBar


def training_status(metrics: dict[str, float]) -> str:
    """`loss 0.812, parsed 97 %, 3 rows skipped`, of what is known."""
    parts = []
    if "loss" in metrics:
        parts.append(f"loss {metrics['loss']:.3f}")
    if "reward" in metrics:
        parts.append(f"reward {metrics['reward']:.3f}")
    if "parse_rate" in metrics:
        parts.append(f"parsed {100 * metrics['parse_rate']:.0f} %")
    if metrics.get("rows_skipped"):
        parts.append(f"{metrics['rows_skipped']:.0f} rows skipped")
    return ", ".join(parts)


class TrainingProgress(TrainerCallback):
    """Shows steps, loss, parse rate of the last samples, rows a second and time left, in the main process."""

    def __init__(self, run: Any, console: Console | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._run = run
        self._console = console or Console(stderr=True)
        self._bar = ProgressBar("training", "rows", run.step_rows, self._console, clock)
        self._metrics: dict[str, float] = {}

    def close(self) -> None:
        """Give the terminal back."""
        self._bar.__exit__(None, None, None)

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if not state.is_world_process_zero:
            return
        rows, step = sum(map(len, self._run.sources)), state.global_step
        begins = f"continues at step {step}" if step else "begins"
        self._console.out(f"training {begins}: {rows} rows, {state.max_steps} steps", highlight=False)
        self._bar.__enter__()
        self._bar(step, state.max_steps)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        self._metrics |= {name: value for name, value in (logs or {}).items() if isinstance(value, (int, float))}
        if state.is_world_process_zero and "loss" in (logs or {}):
            self._bar(state.global_step, state.max_steps, training_status(self._metrics))
