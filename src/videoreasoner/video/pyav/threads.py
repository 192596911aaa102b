"""How many threads may decode."""

from __future__ import annotations

import multiprocessing
import os

MOST_THREADS = 8


def default_threads() -> int:
    """One for each core of this process, at most 8; one alone in a worker process.

    Worker processes (a DataLoader's among them) divide the cores among themselves already.
    """
    if multiprocessing.parent_process() is not None:
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(MOST_THREADS, cores)
