"""Files that are complete or missing at any time, and that one process at a time writes."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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


@contextmanager
def locked(path: Path, busy: Exception) -> Iterator[None]:
    """Hold the lock file `path`, which exists while the block runs. A killed process holds no lock.

    Args:
        path: the lock file, in a folder that exists.
        busy: raised when another process holds it.

    Raises:
        OSError: the lock file cannot be written.
    """
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise busy from error
        # Between the two lines above, its holder may have removed it, and another process may have made a new one.
        if not path.exists() or not os.path.samestat(os.fstat(lock.fileno()), path.stat()):
            raise busy
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
