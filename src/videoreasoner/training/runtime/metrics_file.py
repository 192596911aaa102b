"""`metrics.jsonl`: one line a logged step, for people, plots and tests."""

from __future__ import annotations

import resource
import sys
from typing import Any

import torch
from transformers import TrainerCallback

from videoreasoner.training.runtime.folder import RunFolder

# Means of the whole run, which transformers reports once at the end; the lines have them step by step.
_NOT_A_STEP = "train_runtime"


def peak_memory_gb() -> float:
    """Most memory so far: of the GPU where there is one, else of this process."""
    if torch.cuda.is_available():
        return round(torch.cuda.max_memory_allocated() / 1e9, 3)
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(kilobytes * (1 if sys.platform == "darwin" else 1024) / 1e9, 3)


class MetricsFile(TrainerCallback):
    """Writes each logged line, and one at every checkpoint. A resumed run first drops the lines of steps it repeats."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        # A checkpoint does not hold the sums of an unfinished line, so a line is written with each checkpoint.
        if control.should_save:
            control.should_log = True

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if state.is_world_process_zero and logs and _NOT_A_STEP not in logs:
            rounded = {name: round(value, 6) if isinstance(value, float) else value for name, value in logs.items()}
            # Learning rates are small: six decimals would say nothing.
            if "learning_rate" in logs:
                rounded["learning_rate"] = logs["learning_rate"]
            self.folder.append("metrics.jsonl", {"step": state.global_step, **rounded})
