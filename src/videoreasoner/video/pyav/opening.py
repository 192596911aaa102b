"""Opening a video with FFmpeg, and error messages that say why that failed."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from itertools import chain
from urllib.parse import unquote

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.stream import Disposition
from av.video.stream import VideoStream

from videoreasoner.errors import VideoError
from videoreasoner.video.pyav.allowed import (
    check_address,
    check_size,
    ffmpeg_options,
    protocol_of,
    scheme_of,
    what_it_is,
)
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
        VideoError: it cannot be opened, holds no video that FFmpeg can decode, or its pictures are too large.
        SettingError: the limit of pixels is not a number.
    """
    address, is_local = _address(source)
    options = ffmpeg_options(is_local)
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
    try:
        check_size(source, stream.width, stream.height)
    except VideoError:
        container.close()
        raise
    decoding = {"max_pixels": options["max_pixels"]}
    if stream.codec_context.name.startswith(_CHECKED_ON_REQUEST):
        decoding["err_detect"] = "crccheck+bitstream+buffer"
    stream.codec_context.options = decoding
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
    if not is_local and error.errno == errno.EINVAL:
        return (
            "FFmpeg finds no video there; playlists and pages are not followed, so give the address of the video file."
        )
    if not is_local:
        return f"it cannot be fetched ({error.strerror}); check the address and the connection."
    with open(address.removeprefix("file:"), "rb") as file:
        head = file.read(4096)
    if (words := what_it_is(head)) is not None:
        return words
    if head[4:8] in (b"ftyp", b"mdat", b"free", b"wide", b"skip", b"moov"):
        return (
            f"its index (moov) is missing or broken ({error.strerror}): the file was cut off "
            "while it was written or copied; copy it again in full."
        )
    return f"FFmpeg cannot read it as a video ({error.strerror}); get it again in full, or convert it to mp4 (H.264)."


def local_path(source: str) -> str | None:
    """The path of the file that a path or URL names; None if it is not on this machine."""
    scheme = scheme_of(source)
    if scheme is None:
        return source
    if scheme != "file":
        return None
    # Not urlsplit: it fails on some texts.
    _, slash, path = re.split("[?#]", source[len("file://") :])[0].partition("/")
    return unquote(slash + path)


def _address(source: str) -> tuple[str, bool]:
    """The address that FFmpeg opens, and whether it is a file on this machine.

    Raises:
        VideoError: there is no such file, it cannot be a video, or the address is of a kind that is not read.
    """
    check_address(source)
    path = local_path(source)
    if path is None:
        scheme, rest = source.split(":", 1)
        # A space would end the address in the request.
        return f"{scheme.lower()}:{rest}".replace(" ", "%20"), False
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        if (protocol := protocol_of(path)) is not None:
            raise VideoError(
                f"{source}: no such file, and {protocol}: is not read as a protocol; give a path, or an address that "
                "begins with http://, https:// or file://."
            ) from error
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
    if path.endswith((".y", ".Y")):
        # FFmpeg would open the files beside it that end in .U and .V.
        raise VideoError(f"{source}: pixels without a header are not read; convert it to mp4 (H.264).")
    # The prefix keeps FFmpeg from taking a name such as "a:b.mp4" for an address.
    return f"file:{os.path.abspath(path)}", True
