"""Processes that work for another one, and end when it does for whatever reason."""

from __future__ import annotations

import multiprocessing
import os
import threading
from multiprocessing.connection import wait

_watching: set[int] = set()


def end_with_parent() -> None:
    """End this process as soon as its parent is gone, even by kill -9. It may be called repeatedly.

    A process that multiprocessing did not start is left alone. The workers of torch's data loader need this function:
    they watch the id of their parent process, which is the fork server's with the start method "forkserver", so they
    would run for ever.
    """
    parent = multiprocessing.parent_process()
    if parent is None or os.getpid() in _watching:
        return
    _watching.add(os.getpid())

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
