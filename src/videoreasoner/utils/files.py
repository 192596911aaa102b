"""Files that are complete or missing at any time, and that one process at a time writes."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

_held: set[TextIO] = set()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, which replaces it with the same access rights when the block ends without error.

    Where `path` is a symbolic link, the file that it names is replaced. After any exception there is no temporary
    file, and `path` is as it was before.

    Raises:
        OSError: the finished file cannot be moved into place.
    """
    path = path.resolve()
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        if path.exists():
            shutil.copymode(path, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def sync_tree(folder: Path) -> None:
    """Write a folder and everything in it to the disk."""
    for path in sorted(folder.rglob("*"), reverse=True):
        sync(path)
    sync(folder)


def sync(path: Path) -> None:
    """Write a file, or the names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_small(path: Path, most_bytes: int) -> str:
    """The text of a file that has no reason to be large. Devices and pipes, which may never end, are refused unread.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no regular file, is larger than `most_bytes`, or is not UTF-8.
    """
    # A pipe without a writer would hold up `open`.
    if path.exists() and not path.is_file():
        raise ValueError("it is no regular file")
    with path.open("rb") as file:
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise ValueError(f"it is larger than {most_bytes / 2**20:g} MiB")
    return content.decode("utf-8")


def read_json(path: Path, most_bytes: int = 2**20) -> Any:
    """The content of a JSON file.

    Raises:
        OSError: it cannot be read.
        ValueError: see `read_small`; or it is not JSON, or nested too deeply.
    """
    try:
        return json.loads(read_small(path, most_bytes))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


@contextmanager
def locked(path: Path, busy: Callable[[str], Exception]) -> Iterator[None]:
    """Hold the lock file `path`, which exists while the block runs. A killed process holds no lock.

    Args:
        path: the lock file, in a folder that exists.
        busy: makes the error that is raised when another process holds it, from who that is: "process 12 on host".

    Raises:
        OSError: the lock file cannot be written.
    """
    # Opened without emptying it, because it says who holds the lock.
    with path.open("a+", encoding="utf-8", errors="replace") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise busy(_holder(lock)) from error
        # Between the two lines above, its holder may have removed it, and another process may have made a new one.
        if not path.exists() or not os.path.samestat(os.fstat(lock.fileno()), path.stat()):
            raise busy(_holder(lock))
        _held.add(lock)
        try:
            lock.truncate(0)
            lock.write(f"process {os.getpid()} on {socket.gethostname()}")
            lock.flush()
            yield
        finally:
            _held.discard(lock)
            path.unlink(missing_ok=True)


def _holder(lock: TextIO) -> str:
    lock.seek(0)
    return lock.read(200) or "another process"


def _close_in_child() -> None:
    """A lock lasts until the last process that inherited its file has closed it, and helpers outlive a killed parent.

    To close the file does not unlock it for the parent.
    """
    for lock in _held:
        lock.close()
    _held.clear()


os.register_at_fork(after_in_child=_close_in_child)
