"""The process that decodes for `GuardedVideoFile`: if it hangs or dies, only it is lost.

Requests come as JSON lists, one at a time; each but "drop" gets one JSON object back. Pixels go through shared memory.
It imports numpy and PyAV alone, so that it starts quickly.

    python -m videoreasoner.video.child PARENT_PID CONNECTION_FD MEMORY_FD
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from videoreasoner.errors import VideoError, VideoReasonerError
from videoreasoner.video.file import VideoFile
from videoreasoner.video.shared import SharedMemory


class Server:
    """One film at a time, and the runs of frames that are being read from it."""

    def __init__(self, connection: Connection, memory: SharedMemory) -> None:
        self._connection, self._memory = connection, memory
        self._film: VideoFile | None = None
        self._runs: dict[int, Iterator[tuple[float, NDArray[np.uint8]]]] = {}

    def serve(self) -> None:
        """Answer requests until the other side closes the connection."""
        while True:
            try:
                name, *arguments = json.loads(self._connection.recv_bytes())
            except (EOFError, ConnectionError):
                return
            if name == "drop":
                self._runs.pop(arguments[0], None)
                continue
            try:
                reply = getattr(self, f"_{name}")(*arguments)
            except VideoReasonerError as error:
                reply = {"error": type(error).__name__, "message": str(error)}
            try:
                self._connection.send_bytes(json.dumps(reply).encode())
            except ConnectionError:
                return

    def _open(self, source: str, folder: str, threads: int) -> dict[str, Any]:
        self._close()
        # The other process may have moved since this one was started.
        os.chdir(folder)
        film = self._film = VideoFile(source, threads=threads)
        return {"width": film.width, "height": film.height, "rotation": film.rotation}

    def _close(self) -> dict[str, Any]:
        self._runs.clear()
        if self._film is not None:
            self._film.close()
            self._film = None
        return {}

    def _table(self) -> dict[str, Any]:
        film = self._opened
        self._memory.put(np.concatenate([film.frame_times_s, film.key_times_s]))
        return {"duration_s": film.duration_s, "frames": len(film.frame_times_s), "keys": len(film.key_times_s)}

    def _problems(self) -> dict[str, Any]:
        return {"problems": self._opened.problems}

    def _run(self, number: int, times: int, seek: str, short_side: int | None) -> dict[str, Any]:
        times_s = self._memory.get(np.float64, [times]).copy()
        self._runs[number] = self._opened.iter_frames_at(times_s, seek, short_side)
        return {"size": self._opened.size(short_side)}

    def _next(self, number: int) -> dict[str, Any]:
        try:
            found = next(self._runs[number], None)
        except MemoryError as error:
            film = self._opened
            raise VideoError(f"frames of {film.width}x{film.height} pixels do not fit into memory.") from error
        if found is None:
            return {}
        time_s, image = found
        self._memory.put(image)
        return {"time_s": time_s}

    @property
    def _opened(self) -> VideoFile:
        assert self._film is not None, "a film is opened before anything is asked of it"
        return self._film


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def main() -> None:
    parent, connection, memory = map(int, sys.argv[1:])
    # A closed connection does not tell everything: a fork of the parent may hold it open, and a decoder that hangs
    # does not look.
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    Server(Connection(connection), SharedMemory(memory)).serve()


if __name__ == "__main__":
    main()
