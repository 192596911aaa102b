"""An array that two processes hand to each other without sending it."""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray


class SharedMemory:
    """Memory behind a file descriptor that both processes hold; whose turn it is, they agree on elsewhere."""

    def __init__(self, descriptor: int | None = None) -> None:
        self._file = _anonymous_file() if descriptor is None else os.fdopen(descriptor, "r+b", buffering=0)
        self._mapped: mmap.mmap | None = None

    @property
    def descriptor(self) -> int:
        return self._file.fileno()

    def close(self) -> None:
        """Give the descriptor back. What was mapped stays readable as long as somebody holds it."""
        self._file.close()

    def put(self, values: NDArray[Any]) -> None:
        if os.fstat(self.descriptor).st_size < values.nbytes:
            os.ftruncate(self.descriptor, values.nbytes)
        self.get(values.dtype, values.shape)[...] = values

    def get(self, dtype: DTypeLike, shape: Sequence[int]) -> NDArray[Any]:
        """What was put there, not copied: it holds until something else is put there."""
        count = int(np.prod(shape))
        if self._mapped is None or len(self._mapped) < count * np.dtype(dtype).itemsize:
            self._mapped = mmap.mmap(self.descriptor, 0)
        return np.frombuffer(self._mapped, dtype, count).reshape(shape)


def _anonymous_file() -> Any:
    """A file that nobody else can open, in memory where the system has such files."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("videoreasoner-frames"), "r+b", buffering=0)
    return tempfile.TemporaryFile(buffering=0)
