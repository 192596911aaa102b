"""Opening a video with FFmpeg, and error messages that say why that failed."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from itertools import chain
from urllib.parse import unquote, urlsplit

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.stream import Disposition
from av.video.stream import VideoStream

from videoreasoner.errors import VideoError
from videoreasoner.video.pyav.index import packets

# FFmpeg writes every oddity to stderr. `VideoFile.problems` says what matters.
av.logging.set_level(None)

# These decoders look for damage only if they are asked to.
_CHECKED_ON_REQUEST = ("wmv", "msmpeg4")
# Some formats (a playlist without an end) would have FFmpeg wait for more for minutes.
_TIMEOUT_S = 30.0


def open_stream(source: str, threads: int) -> tuple[InputContainer, VideoStream]:
    """Open a file and choose its video stream: the largest that is no cover picture, the first of several such.

    Args:
        source: a path or URL.
        threads: how many of FFmpeg's own threads may decode. Several work on several frames at once.

    Raises:
        VideoError: it cannot be opened, or holds no video that FFmpeg can decode.
    """
    address, is_local = _address(source)
    # A playlist on disk must not make FFmpeg fetch anything.
    options = {"protocol_whitelist": "file,crypto,data"} if is_local else {}
    try:
        container = av.open(address, options=options, metadata_errors="replace", timeout=_TIMEOUT_S)
    except FFmpegError as error:
        raise VideoError(f"{source}: {_refusal(address, is_local, error)}") from error
    cover = Disposition.attached_pic
    streams = [each for each in container.streams.video if not each.disposition & cover]
    if not streams:
        container.close()
        raise VideoError(f"{source}: it holds no video; name a file with pictures in it.")
    # A small preview may stand before the video itself.
    stream = max(streams, key=_area)
    if stream.codec_context is None:
        container.close()
        raise VideoError(f"{source}: FFmpeg has no decoder for its video; convert it to mp4 (H.264).")
    if stream.codec_context.name.startswith(_CHECKED_ON_REQUEST):
        stream.codec_context.options = {"err_detect": "crccheck+bitstream+buffer"}
    stream.codec_context.thread_count = threads
    stream.codec_context.thread_type = "AUTO" if threads > 1 else "SLICE"
    return container, stream


def _area(stream: VideoStream) -> int:
    # Without a decoder there is no size.
    return stream.width * stream.height if stream.codec_context is not None else -1


def packets_from(
    container: InputContainer, stream: VideoStream, pts: int, dts: int
) -> Iterator[Packet[VideoStream]] | None:
    """The packets from a key frame on; None if no seek leads there.

    Raises:
        FFmpegError: while iterating, where the rest of the file cannot be read.
    """
    # Some formats seek by presentation stamps, some by decoding stamps.
    for target in dict.fromkeys((pts, dts)):
        try:
            container.seek(target, stream=stream)
        except FFmpegError:
            continue
        rest = packets(container, stream)
        for packet in rest:
            if packet.is_keyframe and packet.pts == pts:
                return chain([packet], rest)
            if packet.dts is not None and packet.dts > dts:
                break
    return None


def _refusal(address: str, is_local: bool, error: FFmpegError) -> str:
    """Why a file cannot be opened, and what to do about it."""
    if not is_local:
        return f"it cannot be fetched ({error.strerror}); check the address and the connection."
    with open(address.removeprefix("file:"), "rb") as file:
        is_mp4 = file.read(8)[4:] in (b"ftyp", b"mdat", b"free", b"wide", b"skip", b"moov")
    if is_mp4:
        return (
            f"its index (moov) is missing or broken ({error.strerror}): the file was cut off "
            "while it was written or copied; copy it again in full."
        )
    return f"FFmpeg cannot read it as a video ({error.strerror}); get it again in full, or convert it to mp4 (H.264)."


def local_path(source: str) -> str | None:
    """The path of the file that a path or URL names; None if it is not on this machine."""
    if "://" not in source:
        return source
    url = urlsplit(source)
    return unquote(url.path) if url.scheme == "file" else None


def _address(source: str) -> tuple[str, bool]:
    """The address that FFmpeg opens, and whether it is a file on this machine.

    Raises:
        VideoError: there is no such file, or it cannot be a video.
    """
    path = local_path(source)
    if path is None:
        return source, False
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise VideoError(f"{source}: no such file; check the path.") from error
    except (OSError, ValueError) as error:
        raise VideoError(f"{source!r}: it cannot be reached ({error}); check the path.") from error
    if stat.S_ISDIR(found.st_mode):
        raise VideoError(f"{source}: it is a folder; name a video file inside it.")
    if not stat.S_ISREG(found.st_mode):
        raise VideoError(f"{source}: it is not a regular file; save the video to disk first.")
    if not os.access(path, os.R_OK):
        raise VideoError(f"{source}: permission denied; allow reading it (chmod +r).")
    if not found.st_size:
        raise VideoError(f"{source}: the file is empty; get it again.")
    # The prefix keeps FFmpeg from taking a name such as "a:b.mp4" for an address.
    return f"file:{path}", True
