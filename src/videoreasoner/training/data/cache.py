"""A bounded folder of arrays on disk, shared by any number of processes."""

from __future__ import annotations

import errno
import hashlib
import json
import os
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


class ArrayCache:
    """Named arrays under a key; what was not used for longest goes when the folder would grow too large.

    An entry appears whole or not at all. Two processes that write the same entry write the same bytes, and either may
    win. An entry that another process removes meanwhile, or that a power cut spoiled, counts as not there.

    Args:
        folder: made when it is not there.
        limit_bytes: what the folder may hold. Every writer keeps to it, so that it is exceeded at most by what is being
            written at that moment.

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
        path = self._path(key)
        try:
            found: dict[str, NDArray[Any]] = load_file(path)
            os.utime(path)
        except (FileNotFoundError, SafetensorError):
            return None
        return found

    def put(self, arrays: Mapping[str, NDArray[Any]], *key: Any) -> None:
        """Keep arrays. A full disk is no reason to stop: the entry is left out then.

        Raises:
            SettingError: the folder cannot be written for any other reason.
        """
        path = self._path(key)
        size = sum(array.nbytes for array in arrays.values())
        if size > self.limit_bytes:
            return
        try:
            self._make_room(size)
            with replacing(path) as temporary:
                save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, temporary)
        except SafetensorError as error:
            # The library reports a failed write by its own error, with the reason in words.
            if "No space" not in str(error):
                raise SettingError(f"frame_cache_dir {self.folder}: cannot be written ({error})") from error
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise SettingError(f"frame_cache_dir {self.folder}: cannot be written ({error.strerror})") from error

    def _path(self, key: tuple[Any, ...]) -> Path:
        return self.folder / (hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32] + _SUFFIX)

    def _make_room(self, needed: int) -> None:
        entries = []
        for entry in os.scandir(self.folder):
            if entry.name.endswith(_SUFFIX):
                try:
                    stat = entry.stat()
                except FileNotFoundError:
                    continue
                entries.append((stat.st_mtime_ns, stat.st_size, entry.path))
        surplus = sum(size for _, size, _ in entries) + needed - self.limit_bytes
        for _, size, path in sorted(entries):
            if surplus <= 0:
                break
            Path(path).unlink(missing_ok=True)
            surplus -= size
