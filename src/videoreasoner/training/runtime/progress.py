"""How far training is, on the one progress bar."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rich.console import Console
from transformers import TrainerCallback

from videoreasoner.utils.progress import ProgressBar


def training_status(metrics: dict[str, float]) -> str:
    """`loss 0.812, parsed 97 %, 3 rows skipped`, of what is known.

    Of GRPO `reward 1.250, kl 0.0120, 3.1 s a step`: its loss is near 0 by construction and says nothing.

    Args:
        metrics: by their names in metrics.jsonl, and `step_s`: seconds of a step.
    """
    parts = []
    if "reward" in metrics:
        parts.append(f"reward {metrics['reward']:.3f}")
        if "kl" in metrics:
            parts.append(f"kl {metrics['kl']:.4f}")
        if "step_s" in metrics:
            parts.append(f"{metrics['step_s']:.1f} s a step")
    elif "loss" in metrics:
        parts.append(f"loss {metrics['loss']:.3f}")
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
        self._clock = clock
        self._last = 0, 0.0

    def close(self) -> None:
        """Give the terminal back."""
        self._bar.__exit__(None, None, None)

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if not state.is_world_process_zero:
            return
        rows, step = sum(map(len, self._run.sources)), state.global_step
        self._last = step, self._clock()
        begins = f"continues at step {step}" if step else "begins"
        line = f"training {begins}: {rows} rows, {state.max_steps} steps"
        if step >= state.max_steps:
            line = f"this run is finished: step {step} of {step}; raise max_steps or num_train_epochs to go on"
        self._console.out(line, highlight=False)
        self._bar.__enter__()
        self._bar(step, state.max_steps)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        self._metrics |= {name: value for name, value in (logs or {}).items() if isinstance(value, (int, float))}
        if state.is_world_process_zero and "loss" in (logs or {}):
            step, now_s = state.global_step, self._clock()
            self._metrics["step_s"] = (now_s - self._last[1]) / max(step - self._last[0], 1)
            self._last = step, now_s
            self._bar(state.global_step, state.max_steps, training_status(self._metrics))
