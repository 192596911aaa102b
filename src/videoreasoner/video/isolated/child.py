"""The program that decodes for `GuardedVideoFile`: if it hangs or dies, only its process is lost.

It reads requests from a connection, one at a time, as JSON lists: a name and arguments. Every request but "drop" is
answered by one JSON object. A reply with a "shape" is followed by the pixels, uint8, as one message of bytes.
It imports numpy and PyAV but no model library, so it starts quickly.

    python -m videoreasoner.video.isolated.child PARENT_PID CONNECTION_FD
"""

from __future__ import annotations

import json
import os
import select
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from videoreasoner.errors import VideoError, VideoReasonerError
from videoreasoner.video.pyav.file import VideoFile

Reply = dict[str, Any]
# Seconds between two looks for the parent, where the kernel does not tell that it has ended.
_LOOK_EVERY_S = 1.0


class DecoderServer:
    """Holds one video at a time, and the iterators over its frames that are in use."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._video: VideoFile | None = None
        self._iterators: dict[int, Iterator[tuple[float, NDArray[np.uint8]]]] = {}

    def serve(self) -> None:
        """Answer requests until the other side closes the connection."""
        while True:
            try:
                name, *arguments = json.loads(self._connection.recv_bytes())
                if name == "drop":
                    self._iterators.pop(arguments[0], None)
                else:
                    self._answer(name, arguments)
            except (EOFError, ConnectionError):
                return

    def _answer(self, name: str, arguments: list[Any]) -> None:
        image = None
        try:
            if name == "next":
                reply, image = self._next(*arguments)
            else:
                reply = getattr(self, f"_{name}")(*arguments)
        except VideoReasonerError as error:
            reply = {"error": type(error).__name__, "message": str(error)}
        self._connection.send_bytes(json.dumps(reply).encode())
        if image is not None:
            self._connection.send_bytes(np.ascontiguousarray(image).reshape(-1).data)

    def _open(self, source: str, folder: str, threads: int, download_limit_mb: float | None = None) -> Reply:
        self._close()
        # The parent may have changed its folder since this process was started.
        os.chdir(folder)
        video = self._video = VideoFile(source, threads=threads, download_limit_mb=download_limit_mb)
        return {"width": video.width, "height": video.height, "rotation": video.rotation}

    def _close(self) -> Reply:
        self._iterators.clear()
        if self._video is not None:
            self._video.close()
            self._video = None
        return {}

    def _table(self) -> Reply:
        video = self._opened
        return {
            "frame_times_s": video.frame_times_s.tolist(),
            "key_times_s": video.key_times_s.tolist(),
            "duration_s": video.duration_s,
        }

    def _problems(self) -> Reply:
        return {"problems": self._opened.problems}

    def _iterate(self, number: int, times_s: list[float], seek: str, short_sides: list[int | None]) -> Reply:
        self._iterators[number] = self._opened.iter_frames_at(times_s, seek, short_sides)
        return {}

    def _next(self, number: int) -> tuple[Reply, NDArray[np.uint8] | None]:
        try:
            found = next(self._iterators[number], None)
        except MemoryError as error:
            size = f"{self._opened.width}x{self._opened.height}"
            raise VideoError(f"frames of {size} pixels do not fit into memory.") from error
        if found is None:
            return {}, None
        time_s, image = found
        return {"time_s": time_s, "shape": image.shape}, image

    @property
    def _opened(self) -> VideoFile:
        assert self._video is not None, "a video is opened before anything is asked of it"
        return self._video


def _end_with(parent: int) -> None:
    """End this process when its parent has ended.

    PR_SET_PDEATHSIG does not serve: it fires when the thread that started this process ends.
    """
    try:
        # Readable once that process has ended.
        ended = os.pidfd_open(parent)
    except (AttributeError, OSError):
        # There is no such call before Linux 5.3, in Pythons built for older ones, and in some sandboxes.
        while os.getppid() == parent:
            time.sleep(_LOOK_EVERY_S)
    else:
        # The number of a parent that had ended before may belong to another process by now.
        if os.getppid() == parent:
            select.select([ended], [], [])
    os._exit(1)


def main() -> None:
    parent, connection = map(int, sys.argv[1:])
    # The end of the connection is not enough: a fork of the parent may hold it open, and a decoder that hangs does not
    # read it.
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    DecoderServer(Connection(connection)).serve()


if __name__ == "__main__":
    main()
