"""Planned decoding: wanted frames are cut into runs, and the runs are decoded quickly, several at a time.

It gives frames as long as the decoder gives exactly what the frame table promises. The first frame that is not certain
ends a run, and `careful.CarefulDecoder` decodes the rest.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, islice
from threading import Lock
from typing import NamedTuple

import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.video.frame import PictureType, VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from videoreasoner.errors import VideoError
from videoreasoner.video.pyav.index import FrameIndex
from videoreasoner.video.pyav.opening import packets_from
from videoreasoner.video.pyav.pixels import Converter, Shape
from videoreasoner.video.pyav.source import Source

# A seek discards what the decoder has begun; it costs about as much as decoding this many frames.
FRAMES_WORTH_A_SEEK = 16
# A run of this many frames is long enough to be worth a decoder of its own.
FRAMES_WORTH_A_THREAD = 64
# Most bytes of pixels that runs decoded side by side may hold together. A run that is longer than its share is decoded
# when its turn comes, frame by frame.
_AHEAD_BYTES = 2**28

Images = Iterator[NDArray[np.uint8]]


class _DamagedError(Exception):
    """A decoded frame is damaged."""


class DecodingRun(NamedTuple):
    """Frames that are decoded one after the other, without a seek.

    Attributes:
        key: number of the key frame in `FrameIndex.keys` where decoding begins.
        positions: which frames of the table are wanted; they never decrease.
    """

    key: int
    positions: tuple[int, ...]


class ShapedRun(NamedTuple):
    """A decoding run, and the shape of each of its pictures."""

    key: int
    positions: tuple[int, ...]
    shapes: tuple[Shape, ...]

    def after(self, done: int) -> ShapedRun:
        """The same run without its first pictures."""
        return ShapedRun(self.key, self.positions[done:], self.shapes[done:])


def plan_runs(positions: Iterable[int], index: FrameIndex, threads: int = 1) -> list[DecodingRun]:
    """Cut the wanted frames, in their order, into runs. Pure.

    A frame in the same group of pictures as the frame before it continues the run. A frame in a later group does so if
    at most `FRAMES_WORTH_A_SEEK` frames lie between the frame before it and its group's key frame. With several
    threads, a run that has become long ends at the next group, so that another thread can take the rest.

    Args:
        positions: places in the frame table, in any order.
        threads: how many runs can be decoded at the same time.
    """
    runs: list[tuple[int, list[int]]] = []
    current_key = 0
    for position in positions:
        key = index.key_before(int(index.stamps[position]))
        if runs and position >= (last := runs[-1][1][-1]):
            is_long = threads > 1 and last - runs[-1][1][0] >= FRAMES_WORTH_A_THREAD
            if key <= current_key or (not is_long and index.position_of_key(key) - last <= FRAMES_WORTH_A_SEEK):
                runs[-1][1].append(position)
                current_key = max(current_key, key)
                continue
        runs.append((key, [position]))
        current_key = key
    return [DecodingRun(key, tuple(wanted)) for key, wanted in runs]


class PlannedDecoder:
    """Decodes the runs of one video on up to `threads` threads.

    Several short runs are decoded side by side, each on one thread. A long run, or the only one, is decoded by FFmpeg's
    own threads.
    """

    def __init__(self, source: Source, threads: int) -> None:
        self.source, self.threads = source, threads
        self._idle: list[_RunDecoder] = []
        self._executor: ThreadPoolExecutor | None = None
        self._is_closed = False
        # Several threads fail at videos that one can decode: see `Source.open`.
        self._several_failed = False
        # One thread has found damage.
        self.saw_damage = False
        self._lock = Lock()

    def close(self) -> None:
        self._is_closed = True
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)
        while self._idle:
            self._idle.pop().close()

    def decode(self, runs: Sequence[ShapedRun], index: FrameIndex) -> Iterator[tuple[ShapedRun, Images]]:
        """Each run in its order, with the images of its first frames: all of them, or fewer where one is not certain.

        The images of a run must be used before the next run is asked for.
        """
        if self.threads == 1 or len(runs) == 1:
            for run in runs:
                yield run, self._images(run, index, self.threads)
            return
        if self._executor is None:
            self._executor = ThreadPoolExecutor(self.threads, "decode")
        most_bytes = _AHEAD_BYTES // self.threads
        waiting: deque[tuple[ShapedRun, Future[list[NDArray[np.uint8]]] | None]] = deque()
        rest = iter(runs)
        try:
            while True:
                for run in islice(rest, self.threads - len(waiting)):
                    future = None
                    if len(run.positions) == 1 or sum(shape.bytes for shape in run.shapes) <= most_bytes:
                        future = self._executor.submit(self._all_images, run, index)
                    waiting.append((run, future))
                if not waiting:
                    return
                run, future = waiting.popleft()
                yield run, self._images(run, index, self.threads) if future is None else iter(future.result())
        finally:
            for _, future in waiting:
                if future is not None:
                    future.cancel()

    def _all_images(self, run: ShapedRun, index: FrameIndex) -> list[NDArray[np.uint8]]:
        return list(self._images(run, index, threads=1))

    def _images(self, run: ShapedRun, index: FrameIndex, threads: int) -> Images:
        """The images of a run up to the first that is not certain."""
        done = 0
        for number in (1,) if threads == 1 or self._several_failed else (threads, 1):
            decoder = self._take(number)
            try:
                for image in decoder.images(run.after(done), index):
                    yield image
                    done += 1
            finally:
                if self._is_closed:
                    decoder.close()
                else:
                    self._idle.append(decoder)
            if done == len(run.positions):
                return
            self._several_failed |= number > 1
            self.saw_damage |= decoder.saw_damage

    def _take(self, threads: int) -> _RunDecoder:
        """A decoder that is not in use. Another thread or iterator may be decoding another run."""
        with self._lock:
            for place, idle in enumerate(self._idle):
                if idle.threads == threads:
                    return self._idle.pop(place)
        return _RunDecoder(self.source, threads)


class _RunDecoder:
    """One decoder of a video, which decodes one run after the other."""

    def __init__(self, source: Source, threads: int) -> None:
        self.source, self.threads = source, threads
        self._opened: tuple[InputContainer, VideoStream] | None = None
        self._converter = Converter()
        self.saw_damage = False

    def close(self) -> None:
        if self._opened is not None:
            self._opened[0].close()

    def images(self, run: ShapedRun, index: FrameIndex) -> Images:
        wanted = index.stamps[list(run.positions)].tolist()
        frames = self._frames(run.key, sorted(set(wanted)), index)
        frame: VideoFrame | None = None
        image: NDArray[np.uint8] | None = None
        for number, (stamp, shape) in enumerate(zip(wanted, run.shapes, strict=True)):
            is_same_frame = number > 0 and stamp == wanted[number - 1]
            if image is not None and is_same_frame and shape == run.shapes[number - 1]:
                yield image.copy()
                continue
            if not is_same_frame:
                frame = next(frames, None)
            if frame is None:
                return
            image = self._converter.image(frame, shape)
            yield image

    def _frames(self, key: int, wanted: Sequence[int], index: FrameIndex) -> Iterator[VideoFrame]:
        """The frames with the wanted stamps, in order, up to the first that is not certain."""
        if index.counted or not len(index.keys) or index.keys[key, 0] > wanted[0]:
            return
        try:
            if self._opened is None:
                self._opened = self.source.open(self.threads, is_strict=True)
            container, stream = self._opened
            source = packets_from(container, stream, *index.keys[key].tolist())
            if source is not None:
                latest: dict[int, int] = {}
                yield from _certain(_decoded(source, stream, wanted, latest), key, wanted, latest, index)
        except (FFmpegError, VideoError, _DamagedError) as error:
            # The careful decoder takes over, and reports what is wrong.
            self.saw_damage |= self.threads == 1 and not isinstance(error, VideoError)


def _decoded(
    source: Iterator[Packet[VideoStream]], stream: VideoStream, wanted: Sequence[int], latest: dict[int, int]
) -> Iterator[VideoFrame]:
    """The decoded frames of the packets, until all wanted frames and those that they depend on have come out.

    Args:
        latest: filled with, for each wanted stamp, the largest stamp among the frames sent before it and itself. All
            that it depends on has come out when this one has.
    """
    codec = stream.codec_context
    # In H.264, no picture refers to one that is marked as no reference. Such a picture need not be decoded unless it is
    # wanted, and the wanted pictures stay the same to the bit. HEVC promises this within one temporal layer only, and
    # other decoders lose pictures.
    skips = codec.name == "h264"
    unsent = set(wanted)
    largest = wanted[0]
    for packet in chain(source, [None]):
        if skips:
            codec.skip_frame = "DEFAULT" if packet is None or packet.pts in unsent else "NONREF"
        if packet is not None and packet.pts is not None:
            largest = max(largest, packet.pts)
            if packet.pts in unsent:
                latest[packet.pts] = largest
        yield from codec.decode(packet)
        if packet is not None and unsent:
            unsent.discard(packet.pts or 0)
            if not unsent and codec.thread_count == 1:
                # Every wanted frame has been sent: flush the decoder rather than send it more. Several threads are sent
                # more, because a flush hides their errors.
                yield from codec.decode(None)
                return


def _certain(
    frames: Iterator[VideoFrame], key: int, wanted: Sequence[int], latest: dict[int, int], index: FrameIndex
) -> Iterator[VideoFrame]:
    """The wanted frames among the decoded ones, as long as they and all before them are what the table promises.

    Raises:
        _DamagedError: one of them is damaged.
    """
    # After a seek, frames shown before the key frame refer to frames that were not decoded.
    floor = int(index.keys[key, 0]) if key else int(index.stamps[0])
    last: int | None = None
    left = deque(wanted)
    # Wanted frames that may depend on frames which have not come out yet.
    held: deque[VideoFrame] = deque()
    for frame in frames:
        # The second field of an interlaced picture may come in a packet of its own.
        if frame.pts is None or (last is not None and frame.pts < last) or frame.interlaced_frame:
            return
        if frame.pts < floor:
            continue
        if last is None and key and (not stands_alone(frame) or frame.pts != index.stamps[index.position_of_key(key)]):
            return
        # What is damaged shows up in later frames, too.
        if frame.is_corrupt:
            raise _DamagedError
        last = frame.pts
        if left and last > left[0]:
            return
        if left and last == left[0]:
            held.append(frame)
            left.popleft()
        while held and latest[held[0].pts or 0] <= last:
            yield held.popleft()
        if not left and not held:
            return


def stands_alone(frame: VideoFrame) -> bool:
    """Whether a frame refers to no other frame.

    Videos that are refreshed strip by strip (x264's intra-refresh) mark key frames that do refer to others.
    """
    return frame.key_frame or frame.pict_type not in (PictureType.P, PictureType.B)
