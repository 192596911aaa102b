"""The frame table of a video: when each frame is shown and where decoding can start.

It is read from the packets, without decoding, so it costs one pass over the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.video.stream import VideoStream
from numpy.typing import NDArray

# How Matroska's tags write a length.
_CLOCK = re.compile(r"(\d+):(\d+):(\d+(?:\.\d+)?)")
# Streams that people cut and join byte by byte. In each part, the clock may start again.
_JOINABLE = ("mpegts", "mpeg", "hls")
# A longer step forward begins another recording, as in FFmpeg's `-dts_delta_threshold`.
_LONGEST_STEP_S = 10


@dataclass(frozen=True, eq=False)
class FrameIndex:
    """When the frames of one video stream are shown, in whole ticks of `tick_s` seconds.

    Attributes:
        stamps: int64[N], presentation stamps of the shown frames, strictly ascending.
        end: stamp at which the last frame leaves the screen.
        tick_s: seconds per tick.
        keys: int64[K, 2], presentation and decoding stamp of each key frame, by presentation
            stamp. Key frames that an edit list hides are among them: decoding starts there too.
            Empty where decoding can start at the beginning only.
        counted: the packets do not say when each frame is shown. The n-th frame of a decode from
            the beginning belongs to `stamps[n]`, and nothing but such a decode finds it.
    """

    stamps: NDArray[np.int64]
    end: int
    tick_s: Fraction
    keys: NDArray[np.int64]
    counted: bool

    def seconds(self, stamps: NDArray[np.int64]) -> NDArray[np.float64]:
        """float64: seconds from the first shown frame to each of `stamps`."""
        # One rounding only, so that 13 ticks of 1/25 s are exactly the number written 0.52.
        ticks = (stamps - self.stamps[0]) * self.tick_s.numerator
        seconds: NDArray[np.float64] = ticks.astype(np.float64) / self.tick_s.denominator
        return seconds

    def key_before(self, stamp: int) -> int:
        """Number of the last key frame shown at or before `stamp`; 0 where there is none."""
        if self.counted:
            return 0
        return max(0, int(np.searchsorted(self.keys[:, 0], stamp, side="right")) - 1)

    def position_of_key(self, key: int) -> int:
        """Position in `stamps` of the first frame shown at or after key frame number `key`."""
        return int(np.searchsorted(self.stamps, self.keys[key, 0]))

    def as_counted(self) -> FrameIndex:
        """The same times, for a video whose packets turned out to carry wrong stamps."""
        return replace(self, keys=np.empty((0, 2), np.int64), counted=True)

    def with_one_key(self) -> FrameIndex:
        """The same times, for a video in which decoding cannot start at what the packets call key frames."""
        return replace(self, keys=self.keys[:1])

    def shown_keys(self) -> NDArray[np.int64]:
        """int64: positions in `stamps` of the key frames that are shown, ascending."""
        if self.counted:
            return np.empty(0, np.int64)
        return np.flatnonzero(np.isin(self.stamps, self.keys[:, 0]))


class _Entry(NamedTuple):
    """What the table keeps of one packet."""

    pts: int | None
    dts: int | None
    duration: int
    is_key: bool
    is_shown: bool


def scan(container: InputContainer, stream: VideoStream, first_stamp: int | None) -> tuple[FrameIndex, list[str]]:
    """Read all packets of a freshly opened container into a table.

    Args:
        container: positioned at its beginning.
        stream: the video stream of `container`.
        first_stamp: presentation stamp of the first frame that the decoder gave, in the stream's
            time base; None if that frame had none. Packets shown earlier cannot be decoded
            (a recording that begins between two key frames).

    Returns:
        The table (its `stamps` are empty if no packet is shown), and sentences about what is
        missing from the file.
    """
    entries: list[_Entry] = []
    problems = []
    try:
        entries.extend(_entries(container, stream))
    except FFmpegError as error:
        problems.append(f"The file could be read up to frame {len(entries)} only ({error.strerror}).")
    index = _table(entries, stream, first_stamp)
    times = [entry.pts for entry in entries if entry.is_shown]
    if not index.counted and (hidden := len(times) - len(set(times))):
        problems.append(f"{hidden} of {len(times)} frames have the time of another frame; the first of each is shown.")
    there_s, stated_s, slack_s = _lengths(container, stream, len(entries), index)
    if there_s + slack_s < stated_s:
        problems.append(
            f"The file is cut off: it holds {float(there_s):.2f} s of the "
            f"{float(stated_s):.2f} s that its header states."
        )
    listed = (entries[-1].dts or 0) + 1 if entries else 0
    if container.format.name == "avi" and 0 < listed < stream.frames:
        # FFmpeg counts the frames of an AVI file: a lost one moves all later ones forward.
        problems.append(f"The file holds {listed} of the {stream.frames} frames that its header states.")
    return index, problems


def _lengths(
    container: InputContainer, stream: VideoStream, frames: int, index: FrameIndex
) -> tuple[Fraction, Fraction, Fraction]:
    """Three lengths in seconds: of the table, as the file's header states it, and how much a sound file may lack.

    They are zeros where no header states a reliable length.
    """
    slack_s = index.tick_s * 2 * _frame_ticks(stream)
    if "mp4" in container.format.name and frames < stream.frames:
        # Frames before an edit list's beginning are counted, not listed.
        start = stream.start_time or 0
        return (index.end - start) * index.tick_s, (stream.duration or 0) * index.tick_s, slack_s
    stated = _CLOCK.fullmatch(stream.metadata.get("DURATION", ""))
    if "matroska" in container.format.name and stated:
        hours, minutes, seconds = map(Fraction, stated.groups())
        # This format rarely says how long the last frame is shown.
        return index.end * index.tick_s, hours * 3600 + minutes * 60 + seconds, slack_s + 1
    return Fraction(0), Fraction(0), Fraction(0)


def packets(container: InputContainer, stream: VideoStream) -> Iterator[Packet[VideoStream]]:
    """The packets of a stream from the present place on, without empty ones: a decoder takes those for the end.

    Raises:
        FFmpegError: the rest of the file cannot be read.
    """
    try:
        for packet in container.demux(stream):
            if packet.size:
                yield packet
    except IndexError:
        # At the end of the file, PyAV fails on streams that FFmpeg found only while reading.
        return


def _entries(container: InputContainer, stream: VideoStream) -> Iterator[_Entry]:
    has_hidden_frames = stream.codec_context.name in ("vp8", "libvpx")
    for packet in packets(container, stream):
        hidden = has_hidden_frames and _is_hidden_vp8(packet)
        yield _Entry(
            packet.pts,
            packet.dts,
            packet.duration or 0,
            packet.is_keyframe,
            not (packet.is_discard or hidden),
        )


def _is_hidden_vp8(packet: Packet[VideoStream]) -> bool:
    """Whether a VP8 packet holds a reference picture that is never shown (RFC 6386, 9.1)."""
    return not memoryview(packet)[0] & 0x10


def _table(entries: list[_Entry], stream: VideoStream, first_stamp: int | None) -> FrameIndex:
    tick_s = stream.time_base or Fraction(1)
    frame_ticks = _frame_ticks(stream)
    no_keys = np.empty((0, 2), np.int64)
    is_joined = False
    if stream.container.format.name in _JOINABLE:
        entries, is_joined = _joined(entries, round(_LONGEST_STEP_S / tick_s), frame_ticks)
    shown = [entry for entry in entries if entry.is_shown]

    ordered = [entry.dts for entry in entries if entry.dts is not None]
    jumps_back = any(later < earlier for earlier, later in pairwise(ordered))
    presented = [entry.pts for entry in shown if entry.pts is not None]
    if len(presented) == len(shown) and not jumps_back and not _lacks_order(entries, stream):
        last = max(shown, key=lambda entry: entry.pts or 0, default=None)
        stamps = np.unique(np.array(presented, np.int64))
        if first_stamp is not None:
            stamps = stamps[stamps >= first_stamp]
        length = last.duration if last else 0
        if is_joined:
            # A seek uses the stamps in the file, and several recordings have the same ones.
            return FrameIndex(stamps, _end(stamps, length, frame_ticks), tick_s, no_keys, counted=True)
        if stream.codec_context.pix_fmt == "pal8":
            # AVI and MOV give the palette with the first packet that is read, and a seek loses it.
            return FrameIndex(stamps, _end(stamps, length, frame_ticks), tick_s, no_keys, counted=False)
        keys = sorted(
            (entry.pts, entry.pts if entry.dts is None else entry.dts)
            for entry in entries
            if entry.is_key and entry.pts is not None
        )
        return FrameIndex(
            stamps,
            _end(stamps, length, frame_ticks),
            tick_s,
            np.array(keys, np.int64).reshape(-1, 2),
            counted=False,
        )

    decoded = [entry.dts for entry in shown if entry.dts is not None]
    if len(decoded) == len(shown) and len(set(decoded)) == len(decoded) and not jumps_back:
        stamps = np.array(decoded, np.int64)
        length = shown[-1].duration if shown else 0
        return FrameIndex(stamps, _end(stamps, length, frame_ticks), tick_s, no_keys, counted=True)

    # A bare stream of pictures has no stamps, and FFmpeg guesses its average rate.
    if shown and all(entry.duration > 0 for entry in shown):
        *starts, end = accumulate((entry.duration for entry in shown), initial=0)
        return FrameIndex(np.array(starts, np.int64), end, tick_s, no_keys, counted=True)
    stamps = np.arange(len(shown), dtype=np.int64)
    return FrameIndex(stamps, len(shown), 1 / _rate(stream), no_keys, counted=True)


def _joined(entries: list[_Entry], longest_step: int, frame_ticks: int) -> tuple[list[_Entry], bool]:
    """The packets of joined recordings, each recording moved to where the one before it ends.

    Args:
        entries: in the order of the file.
        longest_step: ticks between the decoding of two packets of one recording, beyond the first one's length.
        frame_ticks: length of a packet that does not state it.

    Returns:
        The packets, and whether there are several recordings.
    """
    recordings: list[list[_Entry]] = [[]]
    before: _Entry | None = None
    for entry in entries:
        if entry.dts is not None:
            if entry.pts is not None and entry.pts < entry.dts:
                # No frame is shown before it is decoded: FFmpeg invented this stamp, as it does between recordings.
                entry = entry._replace(dts=entry.pts)
            if before is not None and before.dts is not None and entry.dts is not None:
                step = entry.dts - before.dts
                if not 0 <= step <= longest_step + (before.duration or frame_ticks):
                    recordings.append([])
            before = entry
        recordings[-1].append(entry)
    moved: list[_Entry] = []
    end: int | None = None
    for recording in recordings:
        starts = [entry.pts for entry in recording if entry.pts is not None and entry.is_shown]
        shift = end - min(starts) if starts and end is not None else 0
        placed = [
            entry._replace(
                pts=None if entry.pts is None else entry.pts + shift,
                dts=None if entry.dts is None else entry.dts + shift,
            )
            for entry in recording
        ]
        ends = [entry.pts + (entry.duration or frame_ticks) for entry in placed if entry.pts is not None]
        end = max(ends, default=end)
        moved += placed
    return moved, len(recordings) > 1


def _rate(stream: VideoStream) -> Fraction:
    """Frames per second as the file states them, 1 where it does not."""
    return stream.average_rate or stream.guessed_rate or Fraction(1)


def _frame_ticks(stream: VideoStream) -> int:
    """How long a frame is shown by the average rate."""
    return max(1, round(1 / _rate(stream) / (stream.time_base or Fraction(1))))


def _lacks_order(entries: list[_Entry], stream: VideoStream) -> bool:
    """Whether the presentation stamps are really decoding stamps.

    AVI stores no presentation stamps. For streams with B-frames, FFmpeg invents them from the order of decoding.
    """
    if stream.container.format.name != "avi" or not stream.codec_context.has_b_frames:
        return False
    stamps = [entry.pts for entry in entries if entry.pts is not None]
    return all(later > earlier for earlier, later in pairwise(stamps))


def _end(stamps: NDArray[np.int64], length: int, frame_ticks: int) -> int:
    """When the last frame leaves the screen: after its stated length, or else after that of the frame before it."""
    if not len(stamps):
        return 0
    gap = int(stamps[-1] - stamps[-2]) if len(stamps) > 1 else frame_ticks
    return int(stamps[-1]) + (length or gap)
