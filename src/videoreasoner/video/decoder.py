"""Decoding one frame of a film at the least cost, and checking that it is the right one."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from itertools import chain
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import PictureType, VideoFrame
from av.video.stream import VideoStream

from videoreasoner.errors import VideoError
from videoreasoner.video.index import FrameIndex, packets, scan

# FFmpeg writes to stderr about every oddity; what matters is said in `Decoder.problems`.
av.logging.set_level(None)

# A seek empties the decoder, which then needs some packets before its first frame.
FRAMES_WORTH_A_SEEK = 16
# Some formats (a playlist without an end) would have FFmpeg wait for more for minutes.
TIMEOUT_S = 30.0
TIMES_LISTED = 5


class Picture(NamedTuple):
    """A decoded frame and its presentation stamp, in ticks of the film's `FrameIndex`."""

    stamp: int
    frame: VideoFrame


class _MisledError(Exception):
    """What the decoder assumed about the film is wrong, is now corrected; begin again."""


class Decoder:
    """Finds frames of one film by their position in its frame table.

    It decodes forward from key frames and goes by the presentation stamps of what comes out,
    not by what the table promises.

    Args:
        source: a path or URL.

    Raises:
        VideoError: the source cannot be opened, or has no video stream.
    """

    def __init__(self, source: str) -> None:
        self.name = source
        self._address, self._is_local = _address(source)
        self._trouble: dict[str, set[int | None]] = {}
        self._index: FrameIndex | None = None
        self._is_closed = False
        self._first_stamp: int | None = None
        # Decoding several frames at once is fast, but reports errors late and loses frames
        # around them; a film with an error goes on without.
        self._decodes_ahead = True
        self._container, self._stream = self._open()
        self._run: Iterator[Picture] = iter(())
        self._begun = 0
        self._held: Picture | None = None
        self._ahead: Picture | None = None

    def close(self) -> None:
        """Close the file."""
        self._run = iter(())
        self._held = self._ahead = None
        self._container.close()
        self._is_closed = True

    def first_frame(self) -> VideoFrame:
        """The first frame that can be decoded.

        Raises:
            VideoError: none can.
        """
        while True:
            try:
                frame = next(self._frames(self._packets()), None)
                break
            except _MisledError:
                self._reopen()
        if frame is None:
            reasons = " ".join(self.problems()) or "It lists no frame."
            raise VideoError(f"{self.name}: no frame can be decoded; get an undamaged copy. {reasons}")
        self._first_stamp = frame.pts
        return frame

    @property
    def index(self) -> FrameIndex:
        """The frame table, read from the file at first use.

        Raises:
            VideoError: it is empty.
            ValueError: the film has been closed before the first use.
        """
        if self._is_closed and self._index is None:
            raise ValueError(f"{self.name} has been closed; open it again")
        if self._index is None:
            container, stream = self._open()
            with container:
                index, problems = scan(container, stream, self._first_stamp)
            for problem in problems:
                self._note(problem)
            if not len(index.stamps):
                raise VideoError(f"{self.name}: it lists no frame; get an undamaged copy.")
            self._index = index
        return self._index

    def seconds(self, stamp: int) -> float:
        """Seconds from the first shown frame to `stamp`."""
        return float(self.index.seconds(np.array([stamp]))[0])

    def problems(self) -> list[str]:
        """What could not be read or decoded so far, one sentence for each kind of trouble."""
        return [
            what.replace("{at}", self._at({stamp for stamp in stamps if stamp is not None}))
            for what, stamps in self._trouble.items()
        ]

    def find(self, position: int) -> Picture:
        """The frame at a position of the table.

        Returns:
            That frame; if it cannot be decoded, the nearest earlier frame that can, failing
            that the nearest later one.

        Raises:
            VideoError: nothing can be decoded any more.
            ValueError: the film has been closed.
        """
        if self._is_closed:
            raise ValueError(f"{self.name} has been closed; open it again")
        wanted = int(self.index.stamps[position])
        while True:
            try:
                picture = self._find(wanted)
                break
            except _MisledError:
                self._reopen()
        if picture is None:
            raise VideoError(f"{self.name}: no frame can be decoded any more; has it changed?")
        if picture.stamp != wanted:
            self._note("No frame{at} could be decoded; the nearest one that can is shown.", wanted)
        elif picture.frame.is_corrupt:
            self._note("The picture{at} is damaged and shows errors.", wanted)
        return picture

    def _find(self, wanted: int) -> Picture | None:
        key = self.index.key_before(wanted)
        if not self._is_on_the_way(wanted, key):
            self._begin(key)
        back = 1
        while True:
            self._advance(wanted)
            is_exact = self._held is not None and self._held.stamp == wanted
            # With no frame at all before the wanted one, decoding had not found its feet
            # (a key frame in name only); with one, a second opinion from further back is enough.
            is_settled = self._held is not None and self._begun < key
            if is_exact or is_settled or self._begun == 0:
                return self._held or self._ahead
            self._begin(max(0, min(self._begun, key) - back))
            back *= 2

    def _is_on_the_way(self, wanted: int, key: int) -> bool:
        """Whether going on is possible and cheaper than a seek to key frame `key`."""
        if self._held is None or self._held.stamp > wanted:
            return False
        if key <= self._begun:
            return True
        here, there = np.searchsorted(self.index.stamps, [self._held.stamp, self.index.keys[key, 0]])
        return bool(there - here <= FRAMES_WORTH_A_SEEK)

    def _advance(self, wanted: int) -> None:
        """Decode on until `_held` is the last frame shown at or before `wanted`."""
        while self._held is None or self._held.stamp < wanted:
            picture = self._ahead or next(self._run, None)
            self._ahead = None
            if picture is None:
                return
            if picture.stamp > wanted:
                self._ahead = picture
                return
            self._held = picture

    def _begin(self, key: int) -> None:
        """Make `_run` begin at key frame number `key`; 0 is the beginning of the film."""
        keys = self.index.keys
        self._held = self._ahead = None
        self._begun = key
        found = None
        if key or (len(keys) and keys[0, 0] <= self.index.stamps[0]):
            found = self._packets_from(*keys[key].tolist())
        if found is None:
            self._begun = 0
            self._reopen()
            found = self._packets()
        self._run = self._pictures(found)

    def _pictures(self, source: Iterator[Packet[VideoStream]]) -> Iterator[Picture]:
        """Decoded frames in the order in which they are shown."""
        index = self.index
        if index.counted:
            # More frames than packets have no place in the table, so they are not shown.
            for stamp, frame in zip(index.stamps, self._frames(source), strict=False):
                yield Picture(int(stamp), frame)
            return
        # After a seek, frames shown before the key frame refer to what was not decoded.
        floor = int(index.keys[self._begun, 0]) if self._begun else int(index.stamps[0])
        last: int | None = None
        for frame in self._frames(source):
            if frame.pts is None or (last is not None and frame.pts < last):
                self._index = index.as_counted()
                raise _MisledError
            if frame.pts < floor:
                continue
            is_fresh = last is None and self._begun and self._decodes_ahead
            if is_fresh and not _is_whole(frame):
                self._index = index.with_one_key()
                raise _MisledError
            last = frame.pts
            yield Picture(last, frame)

    def _frames(self, source: Iterator[Packet[VideoStream]]) -> Iterator[VideoFrame]:
        """Decode; what cannot be decoded becomes a problem."""
        for packet in chain(source, [None]):
            try:
                frames = self._stream.codec_context.decode(packet)
            except FFmpegError as error:
                if self._decodes_ahead:
                    self._decodes_ahead = False
                    raise _MisledError from error
                # Only where packets tell their times is the stamp of a packet one of the table.
                is_timed = self._index is not None and not self._index.counted
                stamp = packet.pts if packet and is_timed else None
                self._note(f"Data{{at}} could not be decoded ({error.strerror}).", stamp)
                continue
            yield from frames

    def _packets(self) -> Iterator[Packet[VideoStream]]:
        """The packets from here on."""
        try:
            yield from packets(self._container, self._stream)
        except FFmpegError as error:
            self._note(f"Reading the file broke off ({error.strerror}).")

    def _packets_from(self, pts: int, dts: int) -> Iterator[Packet[VideoStream]] | None:
        """The packets from a key frame on; None if the file cannot be made to go there."""
        # Some formats seek by the time of showing, some by the time of decoding.
        for target in dict.fromkeys((int(pts), int(dts))):
            try:
                self._container.seek(target, stream=self._stream)
            except FFmpegError:
                continue
            rest = self._packets()
            for packet in rest:
                if packet.is_keyframe and packet.pts == pts:
                    return chain([packet], rest)
                if packet.dts is not None and packet.dts > dts:
                    break
        return None

    def _reopen(self) -> None:
        self._container.close()
        self._held = self._ahead = None
        self._container, self._stream = self._open()

    def _open(self) -> tuple[InputContainer, VideoStream]:
        # A playlist on disk must not make FFmpeg fetch anything.
        options = {"protocol_whitelist": "file,crypto,data"} if self._is_local else {}
        try:
            container = av.open(self._address, options=options, metadata_errors="replace", timeout=TIMEOUT_S)
        except FFmpegError as error:
            raise VideoError(f"{self.name}: {self._refusal(error)}") from error
        cover = Disposition.attached_pic
        streams = [each for each in container.streams.video if not each.disposition & cover]
        if not streams:
            container.close()
            raise VideoError(f"{self.name}: it holds no video; name a file with pictures in it.")
        stream = streams[0]
        if stream.codec_context is None:
            container.close()
            raise VideoError(f"{self.name}: FFmpeg has no decoder for its video; convert it to mp4 (H.264).")
        stream.codec_context.thread_type = "AUTO" if self._decodes_ahead else "SLICE"
        return container, stream

    def _refusal(self, error: FFmpegError) -> str:
        """Why the file cannot be opened and what to do about it."""
        if not self._is_local:
            return f"it cannot be fetched ({error.strerror}); check the address and the connection."
        with open(self._address.removeprefix("file:"), "rb") as file:
            is_mp4 = file.read(8)[4:] in (b"ftyp", b"mdat", b"free", b"wide", b"skip", b"moov")
        if is_mp4:
            return (
                f"its index (moov) is missing or broken ({error.strerror}): the file was cut off "
                "while it was written or copied; copy it again in full."
            )
        return (
            f"FFmpeg cannot read it as a video ({error.strerror}); get it again in full, or convert it to mp4 (H.264)."
        )

    def _note(self, what: str, stamp: int | None = None) -> None:
        """Keep a sentence for `problems`; "{at}" in it becomes the times of all its stamps."""
        self._trouble.setdefault(what, set()).add(stamp)

    def _at(self, stamps: set[int]) -> str:
        """The times of a problem as words to insert, empty if none is known."""
        if not stamps:
            return ""
        times_s = self.index.seconds(np.array(sorted(stamps)))
        listed = ", ".join(f"{time_s:.2f} s" for time_s in times_s[:TIMES_LISTED])
        rest = len(times_s) - TIMES_LISTED
        return f" at {listed}" + (f" and {rest} more" if rest > 0 else "")


def _is_whole(frame: VideoFrame) -> bool:
    """Whether a frame can stand alone.

    Films that are refreshed strip by strip (x264's intra-refresh) have key frames in name only.
    """
    return frame.key_frame or frame.pict_type not in (PictureType.P, PictureType.B)


def _address(source: str) -> tuple[str, bool]:
    """What FFmpeg is to open, and whether that is a file on this machine."""
    path = source
    if "://" in source:
        url = urlsplit(source)
        if url.scheme != "file":
            return source, False
        path = unquote(url.path)
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
