"""A bounded folder of arrays on disk, shared by any number of processes."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from videoreasoner.errors import SettingError
from videoreasoner.utils.files import replacing

_SUFFIX = ".safetensors"
# Holds the bytes in the folder as a decimal number. The number may be too large, but never too small.
_TOTAL = ".total"
# When the folder is full, this share of it is freed at once, so that the folder is listed rarely.
_FREED = 1 / 16
# A file without a final name that is older than this was left by a process that was killed.
_STALE_S = 3600.0


class ArrayCache:
    """Named arrays under a key. The entries that were not used for longest are removed when the folder is full.

    An entry is complete or missing at any time. Two processes that write the same entry write the same bytes, and
    either may win. An entry that another process removes meanwhile, or that a power cut damaged, counts as missing.

    All processes keep one count of bytes in the folder, under a lock, so that a write costs the same however many
    entries there are. The folder is listed when that count reaches the limit.

    Args:
        folder: made when it does not exist.
        limit_bytes: what the folder may hold, apart from the entries that are being written at that moment.

    Raises:
        SettingError: the folder cannot be used.
    """

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self.folder, self.limit_bytes = folder, limit_bytes
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SettingError(
                f"frame_cache_dir {folder}: cannot be made ({error.strerror or error}); give a folder that is writable"
            ) from error

    def get(self, *key: Any) -> dict[str, NDArray[Any]] | None:
        """The arrays that were put under this key, or None."""
        path = self._path(key)
        try:
            found: dict[str, NDArray[Any]] = load_file(path)
            # The time of the last use decides what is removed first.
            os.utime(path)
        except (FileNotFoundError, SafetensorError):
            return None
        return found

    def put(self, arrays: Mapping[str, NDArray[Any]], *key: Any) -> None:
        """Keep arrays. When the disk is full, or the arrays exceed the limit, they are not kept.

        Raises:
            SettingError: the folder cannot be written for any other reason.
        """
        path = self._path(key)
        if sum(array.nbytes for array in arrays.values()) > self.limit_bytes:
            return
        try:
            with replacing(path) as temporary:
                save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, temporary)
                self._make_room(temporary)
        except SafetensorError as error:
            # safetensors reports a failed write by its own error, with the reason in words.
            if "No space" not in str(error):
                raise SettingError(f"frame_cache_dir {self.folder}: cannot be written ({error})") from error
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise SettingError(f"frame_cache_dir {self.folder}: cannot be written ({error.strerror})") from error

    def _path(self, key: tuple[Any, ...]) -> Path:
        return self.folder / (hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32] + _SUFFIX)

    def _make_room(self, written: Path) -> None:
        """Count a file that has been written beside the entries, and remove old entries where there is no room."""
        size = written.stat().st_size
        with (self.folder / _TOTAL).open("a+", encoding="ascii", errors="replace") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            text = file.read()
            # Without a count, as in the folder of an earlier version, the files are counted.
            total = int(text) + size if text.isdecimal() else None
            if total is None or total > self.limit_bytes:
                total = self._remove_oldest(written)
            file.truncate(0)
            file.write(str(total))

    def _remove_oldest(self, written: Path) -> int:
        """Remove entries when the folder holds more than the limit; returns the bytes that it holds then."""
        total = 0
        removable = []
        for entry in os.scandir(self.folder):
            try:
                stat = entry.stat()
            except FileNotFoundError:
                continue
            # Files that are being written count, because they become entries before the folder is listed again.
            total += stat.st_size
            is_stale = entry.name != _TOTAL and time.time() - stat.st_mtime > _STALE_S
            if (entry.name.endswith(_SUFFIX) or is_stale) and entry.name != written.name:
                removable.append((stat.st_mtime_ns, stat.st_size, entry.path))
        if total > self.limit_bytes:
            for _, size, path in sorted(removable):
                Path(path).unlink(missing_ok=True)
                total -= size
                if total <= self.limit_bytes * (1 - _FREED):
                    break
        return total
