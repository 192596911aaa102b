"""Careful decoding: any frame of any video, also of a damaged one, with notes of what is wrong with the video.

A frame that is decoded here equals that of a decode of the whole video from its beginning on one thread. This holds for
damaged videos, too: a decoder fills what is damaged from earlier pictures, so decoding begins at a key frame that is
whole.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import chain
from typing import NamedTuple

import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.video.frame import PictureType, VideoFrame
from av.video.stream import VideoStream

from videoreasoner.errors import VideoError
from videoreasoner.video.pyav import planned
from videoreasoner.video.pyav.allowed import check_size, no_size
from videoreasoner.video.pyav.damage import Damage
from videoreasoner.video.pyav.index import FrameIndex, packets, scan
from videoreasoner.video.pyav.notes import Notes
from videoreasoner.video.pyav.opening import packets_from
from videoreasoner.video.pyav.source import Source

# Behind damage, decoding begins 1, 3, 7, then 15 key frames before the usual one. In a video that is damaged all over,
# starting further back takes long and no longer helps.
_MOST_KEYS_BACK = 8
# Most frames that a frame can depend on and that are shown after it (H.264 and HEVC).
_MOST_REORDERED = 16


class DecodedFrame(NamedTuple):
    """A decoded frame and its presentation stamp, in ticks of the video's `FrameIndex`."""

    stamp: int
    frame: VideoFrame


def _is_b(decoded: DecodedFrame) -> bool:
    """Whether a frame may depend on frames that are shown after it."""
    return decoded.frame.pict_type == PictureType.B


class _MisledError(Exception):
    """An assumption about the video was wrong. It has been corrected; decode again from the beginning."""


class CarefulDecoder:
    """Finds frames of one video by their position in its frame table.

    It decodes forward from key frames and trusts the presentation stamps of the decoded frames rather than the table.

    Args:
        source: the video, which this class does not close.
        threads: how many of FFmpeg's own threads may decode.

    Raises:
        VideoError: the source cannot be opened, or has no video stream.
    """

    def __init__(self, source: Source, threads: int = 1) -> None:
        self.name = source.name
        self._source = source
        self._threads = threads
        self._notes = Notes()
        self._index: FrameIndex | None = None
        self._is_closed = False
        self._first_stamp: int | None = None
        # Decoding several frames at once is fast, but reports errors late and loses frames around them. After the first
        # damage it is turned off, and one thread decodes.
        self._decodes_ahead = True
        self._container, self._stream = self._open()
        # The frames from key frame number `_begun` on; the last of them that was used, and those that came too early.
        self._decoded: Iterator[DecodedFrame] = iter(())
        self._begun = 0
        self._held: DecodedFrame | None = None
        self._ahead: deque[DecodedFrame] = deque()
        self._damage = Damage()

    def close(self) -> None:
        """Close the file."""
        self._decoded = iter(())
        self._forget()
        self._container.close()
        self._is_closed = True

    def first_frame(self) -> VideoFrame:
        """The first frame that can be decoded.

        Raises:
            VideoError: none can, or it is too large.
        """
        while True:
            try:
                frame = next(self._frames(self._read(packets(self._container, self._stream))), None)
                self._check_alone(frame is not None)
                break
            except _MisledError:
                self._reopen()
        if frame is None and not self._stream.width:
            raise no_size(self.name)
        if frame is None:
            reasons = " ".join(self.problems()) or "It lists no frame."
            raise VideoError(f"{self.name}: no frame can be decoded; get an undamaged copy. {reasons}")
        check_size(self.name, frame.width, frame.height)
        self._first_stamp = frame.pts
        return frame

    @property
    def index(self) -> FrameIndex:
        """The frame table, read from the file at first use.

        Raises:
            VideoError: it is empty.
            ValueError: the video has been closed before the first use.
        """
        if self._index is None:
            self.check_open()
            container, stream = self._open()
            with container:
                index, problems = scan(container, stream, self._first_stamp)
            self._source.check_unchanged()
            for problem in problems:
                self._notes.add(problem)
            if not len(index.stamps):
                raise VideoError(f"{self.name}: it lists no frame; get an undamaged copy.")
            self._index = index
        return self._index

    def seconds(self, stamp: int) -> float:
        """Seconds from the first shown frame to `stamp`."""
        return float(self.index.seconds(np.array([stamp]))[0])

    def problems(self) -> list[str]:
        """What could not be read or decoded so far, one sentence for each kind of trouble."""
        return self._notes.sentences(self._index)

    def find(self, position: int) -> DecodedFrame:
        """The frame at a position of the table.

        Returns:
            That frame; if it cannot be decoded, the nearest earlier frame that can, failing
            that the nearest later one.

        Raises:
            VideoError: nothing can be decoded any more.
            ValueError: the video has been closed.
        """
        self.check_open()
        wanted = int(self.index.stamps[position])
        while True:
            try:
                found = self._find(wanted)
                self._check_alone(found is not None and found.stamp == wanted)
                break
            except _MisledError:
                self._reopen()
        if found is None:
            raise VideoError(f"{self.name}: no frame can be decoded any more; has it changed?")
        if found.stamp != wanted:
            self._notes.add("No frame{at} could be decoded; the nearest one that can is shown.", wanted)
        elif found.frame.is_corrupt:
            self._notes.add("The picture{at} is damaged and shows errors.", wanted)
        elif self._is_hurt(found):
            self._notes.add("The picture{at} builds on damaged data and may show errors.", wanted)
        return found

    def decode_alone(self) -> None:
        """Decode on one thread from now on, because the video is damaged."""
        if self._decodes_ahead:
            self._decodes_ahead = False
            if self._threads > 1:
                self._reopen()

    def check_open(self) -> None:
        """Raises:
        ValueError: the video has been closed.
        """
        if self._is_closed:
            raise ValueError(f"{self.name} has been closed; open it again")

    def _find(self, wanted: int) -> DecodedFrame | None:
        key = self.index.key_before(wanted)
        if not self._is_on_the_way(wanted, key):
            self._begin(key)
        back = 1
        while True:
            self._advance(wanted)
            self._look_ahead()
            has_enough = self._held is not None and (self._is_settled(self._held) or back > _MOST_KEYS_BACK)
            if self._begun == 0 or has_enough:
                return self._held or (self._ahead[0] if self._ahead else None)
            self._begin(max(0, min(self._begun, key) - back))
            back *= 2

    def _is_settled(self, held: DecodedFrame) -> bool:
        """Whether decoding from further back would not change a frame.

        Without a whole frame to begin with, decoding may have begun at one that is marked as a key frame and is none.
        """
        return self._damage.begins_well and (self._damage.has_lead or not self._is_hurt(held))

    def _is_hurt(self, held: DecodedFrame) -> bool:
        """Whether the frame that was used last builds on damaged data."""
        last = self._ahead[-1] if _is_b(held) and self._ahead else held
        return self._damage.hurts(held.stamp, last.stamp)

    def _is_on_the_way(self, wanted: int, key: int) -> bool:
        """Whether decoding can continue to the wanted frame, and that is cheaper than a seek to key frame `key`."""
        if self._held is None or self._held.stamp > wanted:
            return False
        if key <= self._begun:
            return True
        here = int(np.searchsorted(self.index.stamps, self._held.stamp))
        return self.index.position_of_key(key) - here <= planned.FRAMES_WORTH_A_SEEK

    def _advance(self, wanted: int) -> None:
        """Decode until `_held` is the last frame shown at or before `wanted`."""
        while self._held is None or self._held.stamp < wanted:
            found = self._ahead.popleft() if self._ahead else next(self._decoded, None)
            if found is None:
                return
            if found.stamp > wanted:
                self._ahead.appendleft(found)
                return
            self._held = found

    def _look_ahead(self) -> None:
        """Decode the frames that `_held` may depend on although they are shown after it."""
        if self._held is None or not _is_b(self._held):
            return
        while len(self._ahead) < _MOST_REORDERED and all(map(_is_b, self._ahead)):
            found = next(self._decoded, None)
            if found is None:
                return
            self._ahead.append(found)

    def _check_alone(self, is_found: bool) -> None:
        """Several threads lose frames at the end without a word: look again with one.

        Raises:
            _MisledError: that has not been done.
        """
        if not is_found and self._decodes_ahead and self._threads > 1:
            self._decodes_ahead = False
            raise _MisledError

    def _begin(self, key: int) -> None:
        """Decode from key frame number `key` on; 0 is the beginning of the video."""
        keys = self.index.keys
        self._forget()
        self._begun = key
        found = None
        if key or (len(keys) and keys[0, 0] <= self.index.stamps[0]):
            found = packets_from(self._container, self._stream, *keys[key].tolist())
        if found is None:
            self._begun = 0
            self._reopen()
            found = packets(self._container, self._stream)
        first = self.index.position_of_key(self._begun) if self._begun else 0
        self._damage = Damage(self.index.stamps[first:].tolist())
        self._decoded = self._decode(self._read(found))

    def _decode(self, source: Iterator[Packet[VideoStream]]) -> Iterator[DecodedFrame]:
        """Decoded frames in the order in which they are shown."""
        index = self.index
        if index.counted:
            # Frames beyond the number of packets have no place in the table and are not shown.
            for stamp, frame in zip(index.stamps, self._frames(source), strict=False):
                yield self._shown(int(stamp), frame)
            return
        # After a seek, frames shown before the key frame refer to frames that were not decoded.
        floor = int(index.keys[self._begun, 0]) if self._begun else int(index.stamps[0])
        last: int | None = None
        for frame in self._frames(source):
            if frame.pts is None or (last is not None and frame.pts < last):
                self._index = index.as_counted()
                raise _MisledError
            if frame.pts < floor:
                continue
            is_first = last is None and self._begun and self._decodes_ahead
            if is_first and not planned.stands_alone(frame):
                self._index = index.with_one_key()
                raise _MisledError
            last = frame.pts
            yield self._shown(last, frame)

    def _shown(self, stamp: int, frame: VideoFrame) -> DecodedFrame:
        if frame.is_corrupt and self._decodes_ahead:
            self._decodes_ahead = False
            raise _MisledError
        is_key = frame.key_frame and frame.pict_type == PictureType.I
        self._damage.show(stamp, is_whole=not frame.is_corrupt, is_key=is_key)
        return DecodedFrame(stamp, frame)

    def _frames(self, source: Iterator[Packet[VideoStream]]) -> Iterator[VideoFrame]:
        """Decoded frames; data that cannot be decoded is noted as a problem."""
        for packet in chain(source, [None]):
            try:
                frames = self._stream.codec_context.decode(packet)
            except FFmpegError as error:
                if self._decodes_ahead:
                    self._decodes_ahead = False
                    raise _MisledError from error
                # The stamp of a packet is one of the table only where packets tell their times.
                is_timed = self._index is not None and not self._index.counted
                stamp = packet.pts if packet and is_timed else None
                self._notes.add(f"Data{{at}} could not be decoded ({error.strerror}).", stamp)
                self._damage.fail(stamp)
                continue
            yield from frames

    def _read(self, source: Iterator[Packet[VideoStream]]) -> Iterator[Packet[VideoStream]]:
        """The packets up to where the file cannot be read."""
        try:
            yield from source
        except FFmpegError as error:
            self._notes.add(f"Reading the file broke off ({error.strerror}).")

    def _reopen(self) -> None:
        self._container.close()
        self._forget()
        self._container, self._stream = self._open()

    def _forget(self) -> None:
        """Drop the decoded frames; the decoder needs their memory."""
        self._held = None
        self._ahead.clear()

    def _open(self) -> tuple[InputContainer, VideoStream]:
        return self._source.open(self._threads if self._decodes_ahead else 1)
