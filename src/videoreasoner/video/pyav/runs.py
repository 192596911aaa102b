"""Decoding runs of wanted frames quickly, several at a time, as long as nothing about the video is odd."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, islice
from threading import Lock

import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.video.frame import PictureType, VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from videoreasoner.errors import VideoError
from videoreasoner.video.pyav.index import FrameIndex
from videoreasoner.video.pyav.opening import open_stream, packets_from
from videoreasoner.video.pyav.pixels import Converter, Shape
from videoreasoner.video.pyav.plan import Run

# Of pixels that all runs decoded ahead may hold together; a run longer than its share is decoded when its turn comes,
# frame by frame.
_AHEAD_BYTES = 2**28

Images = Iterator[NDArray[np.uint8]]


class RunPool:
    """Decodes the runs of one video, with up to `threads` at work.

    Several short runs are decoded side by side, each on one thread; a long run, or the only one, is
    decoded by FFmpeg's own threads.
    """

    def __init__(self, source: str, threads: int) -> None:
        self.source, self.threads = source, threads
        self._idle: list[_RunDecoder] = []
        self._executor: ThreadPoolExecutor | None = None
        self._is_closed = False
        self._lock = Lock()

    def close(self) -> None:
        self._is_closed = True
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)
        while self._idle:
            self._idle.pop().close()

    def decode(self, runs: Sequence[Run], index: FrameIndex, shape: Shape) -> Iterator[tuple[Run, Images]]:
        """Each run in its order, with the images of its first frames: all of them, or fewer where something is odd.

        The images of a run are to be used before the next run is asked for.
        """
        height, width = shape.upright_size
        most_frames = max(1, _AHEAD_BYTES // (self.threads * height * width * 3))
        if self.threads == 1 or len(runs) == 1:
            for run in runs:
                yield run, self._images(run, index, shape, self.threads)
            return
        if self._executor is None:
            self._executor = ThreadPoolExecutor(self.threads, "decode")
        waiting: deque[tuple[Run, Future[list[NDArray[np.uint8]]] | None]] = deque()
        rest = iter(runs)
        try:
            while True:
                for run in islice(rest, self.threads - len(waiting)):
                    ahead = None
                    if len(run.positions) <= most_frames:
                        ahead = self._executor.submit(self._all_images, run, index, shape)
                    waiting.append((run, ahead))
                if not waiting:
                    return
                run, ahead = waiting.popleft()
                yield run, self._images(run, index, shape, self.threads) if ahead is None else iter(ahead.result())
        finally:
            for _, ahead in waiting:
                if ahead is not None:
                    ahead.cancel()

    def _all_images(self, run: Run, index: FrameIndex, shape: Shape) -> list[NDArray[np.uint8]]:
        return list(self._images(run, index, shape, threads=1))

    def _images(self, run: Run, index: FrameIndex, shape: Shape, threads: int) -> Images:
        """The images of a run up to the first that is not certain."""
        decoder = self._take(threads)
        try:
            yield from decoder.images(run, index, shape)
        finally:
            if self._is_closed:
                decoder.close()
            else:
                self._idle.append(decoder)

    def _take(self, threads: int) -> _RunDecoder:
        """A decoder that nobody else uses: another run may be under way in another thread or iterator."""
        with self._lock:
            for place, idle in enumerate(self._idle):
                if idle.threads == threads:
                    return self._idle.pop(place)
        return _RunDecoder(self.source, threads)


class _RunDecoder:
    """One decoder of a video, for one run after the other."""

    def __init__(self, source: str, threads: int) -> None:
        self.source, self.threads = source, threads
        self._opened: tuple[InputContainer, VideoStream] | None = None
        self._converter = Converter()

    def close(self) -> None:
        if self._opened is not None:
            self._opened[0].close()

    def images(self, run: Run, index: FrameIndex, shape: Shape) -> Images:
        wanted = [int(stamp) for stamp in index.stamps[list(run.positions)]]
        frames = self._frames(run.key, sorted(set(wanted)), index)
        image: NDArray[np.uint8] | None = None
        for number, stamp in enumerate(wanted):
            if image is None or stamp != wanted[number - 1]:
                frame = next(frames, None)
                if frame is None:
                    return
                image = self._converter.image(frame, shape)
                yield image
            else:
                yield image.copy()

    def _frames(self, key: int, wanted: Sequence[int], index: FrameIndex) -> Iterator[VideoFrame]:
        """The frames with the wanted stamps, in order; none any more from the first that is not certain."""
        if index.counted or not len(index.keys) or index.keys[key, 0] > wanted[0]:
            return
        try:
            if self._opened is None:
                self._opened = open_stream(self.source, self.threads)
            container, stream = self._opened
            source = packets_from(container, stream, *index.keys[key].tolist())
            if source is None:
                return
            yield from _vouched(self._decoded(source, stream, wanted), key, wanted, index)
        except (FFmpegError, VideoError):
            # Whoever asked goes on with care, and reports what is wrong.
            return

    def _decoded(
        self, source: Iterator[Packet[VideoStream]], stream: VideoStream, wanted: Sequence[int]
    ) -> Iterator[VideoFrame]:
        codec = stream.codec_context
        # In H.264 a picture that is marked as no reference is one to no other picture: when it is not
        # wanted, it need not be decoded, and the wanted ones stay the same to the bit. HEVC promises
        # this within one temporal layer only; other decoders lose pictures.
        skips = codec.name == "h264"
        unsent = set(wanted)
        for packet in chain(source, [None]):
            if skips:
                codec.skip_frame = "DEFAULT" if packet is None or packet.pts in unsent else "NONREF"
            yield from codec.decode(packet)
            if packet is not None and unsent:
                unsent.discard(packet.pts or 0)
                if not unsent:
                    # All is in that has to come out: no need to feed the decoder until it does.
                    break
        else:
            return
        yield from codec.decode(None)


def _vouched(frames: Iterator[VideoFrame], key: int, wanted: Sequence[int], index: FrameIndex) -> Iterator[VideoFrame]:
    """The wanted among decoded frames, as long as each is what the table promises."""
    # After a seek, frames shown before the key frame refer to what was not decoded.
    floor = int(index.keys[key, 0]) if key else int(index.stamps[0])
    last: int | None = None
    left = deque(wanted)
    for frame in frames:
        # The second field of an interlaced picture may come in a packet of its own.
        if frame.pts is None or (last is not None and frame.pts < last) or frame.interlaced_frame:
            return
        if frame.pts < floor:
            continue
        if last is None and key and not is_whole(frame):
            return
        last = frame.pts
        if last < left[0]:
            continue
        if last > left[0] or frame.is_corrupt:
            return
        yield frame
        left.popleft()
        if not left:
            return


def is_whole(frame: VideoFrame) -> bool:
    """Whether a frame can stand alone.

    Videos that are refreshed strip by strip (x264's intra-refresh) have key frames in name only.
    """
    return frame.key_frame or frame.pict_type not in (PictureType.P, PictureType.B)
