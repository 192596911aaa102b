"""The process that decodes for `GuardedVideoFile`: if it hangs or dies, only it is lost.

Requests come as JSON lists, one at a time; each but "drop" gets one JSON object back. Pixels go through shared memory.
It imports numpy and PyAV alone, so that it starts quickly.

    python -m videoreasoner.video.isolated.child PARENT_PID CONNECTION_FD MEMORY_FD
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
from videoreasoner.video.isolated.shared import SharedMemory
from videoreasoner.video.pyav.file import VideoFile


class Server:
    """One video at a time, and the runs of frames that are being read from it."""

    def __init__(self, connection: Connection, memory: SharedMemory) -> None:
        self._connection, self._memory = connection, memory
        self._video: VideoFile | None = None
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
        video_file = self._video = VideoFile(source, threads=threads)
        return {"width": video_file.width, "height": video_file.height, "rotation": video_file.rotation}

    def _close(self) -> dict[str, Any]:
        self._runs.clear()
        if self._video is not None:
            self._video.close()
            self._video = None
        return {}

    def _table(self) -> dict[str, Any]:
        video_file = self._opened
        self._memory.put(np.concatenate([video_file.frame_times_s, video_file.key_times_s]))
        return {
            "duration_s": video_file.duration_s,
            "frames": len(video_file.frame_times_s),
            "keys": len(video_file.key_times_s),
        }

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
            video_file = self._opened
            raise VideoError(
                f"frames of {video_file.width}x{video_file.height} pixels do not fit into memory."
            ) from error
        if found is None:
            return {}
        time_s, image = found
        self._memory.put(image)
        return {"time_s": time_s}

    @property
    def _opened(self) -> VideoFile:
        assert self._video is not None, "a video is opened before anything is asked of it"
        return self._video


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
