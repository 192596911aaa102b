"""Where a video comes from: one file or address, which is opened several times while the video is used."""

from __future__ import annotations

from av.container import InputContainer
from av.video.stream import VideoStream

from videoreasoner.errors import VideoError
from videoreasoner.video.pyav.download import fetch_whole
from videoreasoner.video.pyav.opening import open_stream


class Source:
    """A file or address. What a server gives as a whole only is fetched once, and kept until `close`.

    Args:
        name: a path or an address, as it appears in messages.
        download_limit_mb: see `videoreasoner.video.reader.check_download_limit`.

    Raises:
        VideoError: it cannot be fetched.
    """

    def __init__(self, name: str, download_limit_mb: float) -> None:
        self.name = name
        self._download = fetch_whole(name, download_limit_mb)

    def close(self) -> None:
        if self._download is not None:
            self._download.close()

    def open(self, threads: int) -> tuple[InputContainer, VideoStream]:
        """Open it once more; see `open_stream`.

        Raises:
            VideoError: it cannot be opened, or holds no video that FFmpeg can decode.
        """
        if self._download is None:
            return open_stream(self.name, threads)
        path = f"/proc/self/fd/{self._download.fileno()}"
        try:
            return open_stream(path, threads)
        except VideoError as error:
            raise VideoError(self.name + str(error).removeprefix(path)) from error
