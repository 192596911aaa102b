"""Where a video comes from: one file or address, which is opened several times while the video is used."""

from __future__ import annotations

import os
from typing import NamedTuple

from av.container import InputContainer
from av.video.stream import VideoStream

from videoreasoner.errors import VideoError
from videoreasoner.video.pyav.allowed import check_address
from videoreasoner.video.pyav.download import fetch_whole
from videoreasoner.video.pyav.opening import local_path, open_stream


class _Identity(NamedTuple):
    """What changes when a file is replaced or written to."""

    device: int
    number: int
    size: int
    modified_ns: int


class Source:
    """A file or address. What a server gives as a whole only is fetched once, and kept until `close`.

    A file must stay the same while it is used: the frame table of one video and the pictures of another make wrong
    frames. Of an address this is not known.

    Args:
        name: a path or an address, as it appears in messages.
        download_limit_mb: see `videoreasoner.video.reader.check_download_limit`.

    Raises:
        VideoError: its address is of a kind that is not read, or it cannot be fetched.
    """

    def __init__(self, name: str, download_limit_mb: float) -> None:
        check_address(name)
        self.name = name
        self._download = fetch_whole(name, download_limit_mb)
        self._identity = self._look()

    def close(self) -> None:
        if self._download is not None:
            self._download.close()

    def open(self, threads: int, *, is_strict: bool = False) -> tuple[InputContainer, VideoStream]:
        """Open it once more; see `open_stream`.

        Args:
            threads: how many of FFmpeg's own threads may decode.
            is_strict: several threads must fail at all damage that one thread would mark. They then also fail at some
                sound H.264: where pictures refer to others from before a seek.

        Raises:
            VideoError: it cannot be opened, holds no video that FFmpeg can decode, or has changed.
        """
        if self._download is None:
            # What is wrong with a file that is gone, `open_stream` says.
            opened = _watchful(*open_stream(self.name, threads), is_strict)
            try:
                self.check_unchanged()
            except VideoError:
                opened[0].close()
                raise
            return opened
        path = f"/proc/self/fd/{self._download.fileno()}"
        try:
            return _watchful(*open_stream(path, threads), is_strict)
        except VideoError as error:
            raise VideoError(self.name + str(error).removeprefix(path)) from error

    def check_unchanged(self) -> None:
        """Raises:
        VideoError: the file is another one than at first, or has been written to. A deleted file can be read on where
            it is open.
        """
        if self._look() not in (self._identity, None):
            raise VideoError(f"{self.name}: the file changed while it was used; open it again when it is complete.")

    def _look(self) -> _Identity | None:
        """None for what is not a file on this machine, and for a file that is not there."""
        path = local_path(self.name)
        if path is None:
            return None
        try:
            found = os.stat(path)
        except (OSError, ValueError):
            return None
        return _Identity(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


def _watchful(container: InputContainer, stream: VideoStream, is_strict: bool) -> tuple[InputContainer, VideoStream]:
    """Keep several threads from hiding damage that one thread would report."""
    codec = stream.codec_context
    if codec.thread_count > 1 and codec.name in ("mpeg1video", "mpeg2video"):
        # Its threads share one picture's slices, and one that loses its place does not say so.
        codec.thread_count = 1
    elif codec.thread_count > 1 and is_strict and codec.name in ("h264", "mpeg4"):
        # A thread may give a picture before the thread that decodes it knows that it is damaged, but not before that
        # thread has failed.
        codec.options = {"err_detect": "explode"}
    return container, stream
