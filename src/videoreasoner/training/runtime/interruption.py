"""Ctrl-C while training: a checkpoint is saved, and the run can be continued from it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import TrainerCallback

from videoreasoner.training.runtime.trainer import TreeTrainer
from videoreasoner.utils.terminal import say

# A launcher forwards its own Ctrl-C, and a cluster announces the end of a job, by SIGTERM.
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption(TrainerCallback):
    """Stops training after the current step, with a checkpoint, when any process is asked to.

    A second Ctrl-C stops at once. With several updates on a batch, training stops after the last of them.

    Attributes:
        step: where training was stopped; None while it was not.
    """

    def __init__(self, trainer: TreeTrainer) -> None:
        self._trainer = trainer
        self._pid = os.getpid()
        self._is_asked = False
        self.step: int | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take the signals while the block runs. Only the main thread of a process can: elsewhere nothing changes."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._ask) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        # All processes must agree, because they save together.
        is_asked = self._is_asked if args.world_size == 1 else self._trainer.sum_over_processes(self._is_asked)[0]
        if not is_asked:
            return
        if state.global_step < state.max_steps and state.global_step % self._trainer.run.steps_per_rollout == 0:
            self.step = state.global_step
            control.should_save = control.should_training_stop = True

    def _ask(self, number: int, _frame: Any) -> None:
        if os.getpid() != self._pid:
            # A worker of the data loader that was forked. Its parent decides about Ctrl-C.
            if number == signal.SIGTERM:
                os._exit(128 + number)
            return
        if self._is_asked:
            raise KeyboardInterrupt
        self._is_asked = True
        if self._trainer.is_world_process_zero():
            say("stopping after this step, with a checkpoint; press Ctrl-C again to stop at once", to_stderr=True)
