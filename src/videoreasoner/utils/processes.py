"""Processes that work for another one, and end when it does for whatever reason."""

from __future__ import annotations

import multiprocessing
import os
import threading
from multiprocessing.connection import wait

_watching: set[int] = set()


def end_with_parent() -> None:
    """End this process as soon as its parent is gone, even by kill -9. It may be called repeatedly.

    A process that multiprocessing did not start is left alone. torch's data loader looks after its workers by their
    parent's number, which with the start method "forkserver" is that of the fork server: they would stay for ever.
    """
    parent = multiprocessing.parent_process()
    if parent is None or os.getpid() in _watching:
        return
    _watching.add(os.getpid())

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
