"""Which row comes at which position: a pure function of the seed, so that a run can resume at any step. No I/O.

The rows form an endless stream of epochs, and each epoch is a new shuffle. A step takes the next rows of the stream.
So no row is dropped or repeated to fill the last step of an epoch, and any number of devices sees the same steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def rows_per_epoch(sizes: Sequence[int], weights: Sequence[float]) -> int:
    """Rows of one epoch of several sources, each `weight` times: at least one of every source that has any."""
    return sum(_share(size, weight) for size, weight in zip(sizes, weights, strict=True))


def total_steps(epochs: float, epoch_rows: int, step_rows: int) -> int:
    """Steps that go through the rows of all epochs; the last one may reach a little further."""
    # Rounded, because 0.1 epochs of 30 rows are 3 rows and not 3.0000000000000004.
    return max(1, math.ceil(round(epochs * epoch_rows / step_rows, 9)))


class RowSampler:
    """The stream: position -> number of a row, counted through all sources.

    Args:
        sizes: rows of each source.
        weights: how often each row of a source comes in an epoch; of 2.5, every row comes twice, and half of them, new
            ones each epoch, a third time.
        seed: decides all shuffles.
    """

    def __init__(self, sizes: Sequence[int], weights: Sequence[float], seed: int) -> None:
        self._sources, self._seed = tuple(zip(sizes, weights, strict=True)), seed
        self.epoch_rows = rows_per_epoch(sizes, weights)
        self._shuffled: dict[int, NDArray[np.int64]] = {}

    def __getitem__(self, position: int) -> int:
        epoch, place = divmod(position, self.epoch_rows)
        if epoch not in self._shuffled:
            # A step may reach from one epoch into the next, never further back.
            self._shuffled = {e: rows for e, rows in self._shuffled.items() if e == epoch - 1}
            self._shuffled[epoch] = self._make_epoch(epoch)
        return int(self._shuffled[epoch][place])

    def _make_epoch(self, epoch: int) -> NDArray[np.int64]:
        rng = np.random.default_rng([self._seed, epoch])
        parts: list[NDArray[np.int64]] = []
        first = 0
        for size, weight in self._sources:
            wanted = _share(size, weight)
            whole, rest = divmod(wanted, size) if size else (0, 0)
            parts += [first + np.arange(size)] * whole
            parts.append(first + rng.permutation(size)[:rest])
            first += size
        return rng.permutation(np.concatenate(parts))


def _share(size: int, weight: float) -> int:
    return max(1, round(size * weight)) if size else 0
