"""A stopwatch with named stages."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def device_wait(device: torch.device) -> Callable[[], None] | None:
    """A function that waits for a device's background work; None for a device without any, such as a CPU."""
    if device.type != "cuda":
        return None
    import torch

    return lambda: torch.cuda.synchronize(device)


class Stopwatch:
    """Adds up the seconds spent in each stage.

    Args:
        wait: called before a stage ends, to wait for work that a device still does in the background.
    """

    def __init__(self, wait: Callable[[], None] | None = None) -> None:
        self._wait = wait
        self.seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            if self._wait is not None:
                self._wait()
            self.seconds[name] += time.perf_counter() - started
