"""Small videos for tests, made with PyAV itself, and how they look when decoded straight through."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

TOP_LEFT_RGB = (250, 20, 20)


def picture(number: int, width: int, height: int) -> NDArray[np.uint8]:
    """uint8[H, W, 3]: a red top left corner, and the rest different for each number."""
    rows, columns = np.mgrid[:height, :width]
    image = np.empty((height, width, 3), np.uint8)
    image[..., 0] = 30 + (number * 7) % 100
    image[..., 1] = (columns * 4 + number * 11) % 256
    image[..., 2] = (rows * 5 + number * 3) % 256
    image[: height // 3, : width // 3] = TOP_LEFT_RGB
    return image


@dataclass(frozen=True)
class Recipe:
    """How to make one video; its `stamps` count in `tick_s`."""

    file_name: str
    codec: str = "libx264"
    count: int = 50
    stamps: Sequence[int] | None = None
    tick_s: Fraction = Fraction(1, 25)
    size: tuple[int, int] = (64, 48)
    pixel_format: str = "yuv420p"
    options: dict[str, str] = field(default_factory=dict)
    muxer_options: dict[str, str] = field(default_factory=dict)
    muxer: str | None = None
    turned_left_deg: int = 0
    mirrored: bool = False

    def make(self, folder: Path) -> Path:
        path = folder / self.file_name
        width, height = self.size
        with av.open(str(path), "w", format=self.muxer, options=self.muxer_options) as container:
            stream = container.add_stream(self.codec, rate=25, options=self.options)
            stream.width, stream.height, stream.pix_fmt = width, height, self.pixel_format
            stream.codec_context.time_base = self.tick_s
            if self.turned_left_deg or self.mirrored:
                stream.set_display_rotation(self.turned_left_deg, hflip=self.mirrored)
            for number, stamp in enumerate(self.stamps or range(self.count)):
                frame = av.VideoFrame.from_ndarray(picture(number, width, height), format="rgb24")
                frame.pts, frame.time_base = stamp, self.tick_s
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        return path


_UNEVEN = [int(stamp) for stamp in np.cumsum([1, 90, 5, 33, 33, 400, 2, 40, 41, 300] * 6)]
_MS = Fraction(1, 1000)
_X264_OPEN_GOPS = "open-gop=1:bframes=3:keyint=10:min-keyint=10:scenecut=0:b-adapt=0"

RECIPES = {
    "long gop, b-frames": Recipe("long.mp4", options={"bf": "3", "g": "250"}),
    "short gops, b-frames": Recipe("short.mp4", options={"bf": "2", "g": "6"}),
    "no b-frames": Recipe("plain.mp4", options={"bf": "0", "g": "8"}),
    "variable rate": Recipe("uneven.mp4", stamps=_UNEVEN, tick_s=_MS, options={"bf": "2", "g": "9"}),
    "variable rate mkv": Recipe("uneven.mkv", stamps=_UNEVEN, tick_s=_MS, options={"bf": "2", "g": "9"}),
    "starts late": Recipe("late.mp4", stamps=range(70, 120), options={"bf": "2", "g": "10"}),
    "starts late mkv": Recipe("late.mkv", stamps=range(70, 120), options={"bf": "2", "g": "10"}),
    "edit list": Recipe("edited.mp4", stamps=range(-13, 40), options={"bf": "2", "g": "10"}),
    "edit list, long gop": Recipe("edited2.mp4", stamps=range(-33, 30), options={"bf": "3", "g": "250"}),
    "fragmented": Recipe(
        "fragments.mp4",
        options={"bf": "2", "g": "10"},
        muxer_options={"movflags": "frag_keyframe+empty_moov"},
    ),
    "open gops": Recipe("open.mkv", options={"x264-params": _X264_OPEN_GOPS}),
    "open gops mp4": Recipe("open.mp4", options={"x264-params": _X264_OPEN_GOPS}),
    "no key frames after the first": Recipe(
        "refresh.mp4", options={"x264-params": "intra-refresh=1:keyint=10:bframes=2"}
    ),
    "live mkv": Recipe("live.mkv", options={"bf": "2", "g": "10"}, muxer_options={"live": "1"}),
    "transport stream": Recipe("video.ts", options={"bf": "2", "g": "10"}),
    "raw h264": Recipe("raw.h264", options={"bf": "2", "g": "10"}),
    "hevc": Recipe(
        "video.hevc.mp4",
        codec="libx265",
        count=40,
        options={"x265-params": "keyint=10:min-keyint=10:bframes=3:log-level=none:pools=1"},
    ),
    "vp9": Recipe("vp9.webm", codec="libvpx-vp9", options={"g": "12", "cpu-used": "8", "lag-in-frames": "9"}),
    "vp8": Recipe("vp8.webm", codec="libvpx", options={"g": "12", "deadline": "realtime"}),
    "mpeg4 avi": Recipe("plain.avi", codec="mpeg4", options={"bf": "0", "g": "10"}),
    "mpeg4 avi, b-frames": Recipe("bframes.avi", codec="mpeg4", options={"bf": "2", "g": "10"}),
    "h264 avi, b-frames": Recipe("h264.avi", options={"bf": "2", "g": "10"}),
    "all key frames": Recipe("intra.mov", codec="mjpeg", pixel_format="yuvj420p"),
    "gif": Recipe(
        "video.gif",
        codec="gif",
        pixel_format="rgb8",
        tick_s=Fraction(1, 100),
        stamps=range(0, 200, 8),
    ),
    "turned left": Recipe("left.mp4", count=10, turned_left_deg=90),
    "upside down": Recipe("down.mp4", count=10, turned_left_deg=180),
    "turned right": Recipe("right.mp4", count=10, turned_left_deg=270),
    "odd size": Recipe("odd.mp4", count=12, size=(63, 47), pixel_format="yuv444p"),
    "odd size, turned": Recipe("oddly.mp4", count=12, size=(63, 47), pixel_format="yuv444p", turned_left_deg=90),
    "10 bit": Recipe("ten.mp4", count=12, pixel_format="yuv420p10le"),
    "gray": Recipe("gray.mp4", count=12, pixel_format="gray"),
    "tiny": Recipe("tiny.mp4", count=12, size=(2, 2)),
    "one pixel": Recipe("pixel.mkv", codec="ffv1", count=12, size=(1, 1), pixel_format="yuv444p"),
    "raw rgb": Recipe("raw.avi", codec="rawvideo", count=12, pixel_format="bgr24"),
    "one frame": Recipe("single.mp4", count=1),
    "one picture": Recipe("single.png", codec="png", count=1, pixel_format="rgb24", muxer="image2pipe"),
}


def straight(path: Path) -> list[NDArray[np.uint8]]:
    """All frames, decoded from the beginning on one thread, turned upright by FFmpeg's angle."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        return [np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90) for frame in container.decode(stream)]


def overwrite_packets(path: Path, is_hit: Callable[[int], bool]) -> None:
    """Destroy the data of those packets of a video whose number is hit, in place."""
    with av.open(str(path)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(container.streams.video[0]) if packet.size]
    data = bytearray(path.read_bytes())
    for number, (start, size) in enumerate(places):
        if is_hit(number):
            data[start : start + size] = b"\xa5" * size
    path.write_bytes(data)


def hide_vp8_frames(path: Path, hidden: Collection[int], target: Path) -> None:
    """Copy a VP8 video, making some of its frames references that are never shown."""
    with av.open(str(path)) as source, av.open(str(target), "w") as copy:
        stream = copy.add_stream_from_template(source.streams.video[0])
        packets = [packet for packet in source.demux(source.streams.video[0]) if packet.size]
        for number, packet in enumerate(packets):
            data = bytearray(bytes(packet))
            if number in hidden:
                data[0] &= ~0x10
            changed = av.Packet(bytes(data))
            changed.pts, changed.dts, changed.time_base = packet.pts, packet.dts, packet.time_base
            changed.is_keyframe = packet.is_keyframe
            changed.stream = stream
            copy.mux(changed)


def pack_b_frames(path: Path, target: Path) -> None:
    """Copy an MPEG-4 video in the way of DivX 5: each B-frame travels in the packet before its own,
    and a packet that says "nothing new" follows in its place."""
    start_of_picture = b"\0\0\1\xb6"
    nothing_new = start_of_picture + bytes([0b01010000, 0b01000000, 0x7F])
    with av.open(str(path)) as source, av.open(str(target), "w") as copy:
        stream = copy.add_stream_from_template(source.streams.video[0])
        packed: list[tuple[bytes, bool]] = []
        for packet in source.demux(source.streams.video[0]):
            data = bytes(packet) if packet.size else b""
            place = data.find(start_of_picture)
            if data and data[place + 4] >> 6 == 2:
                packed[-1] = packed[-1][0] + data, packed[-1][1]
                packed.append((nothing_new, False))
            elif data:
                # This note of the encoder is what tells a decoder about the packing.
                note = b"" if packed else b"\0\0\1\xb2DivX503b1393p"
                packed.append((data[:place] + note + data[place:], packet.is_keyframe))
        for number, (data, is_key) in enumerate(packed):
            changed = av.Packet(data)
            changed.pts = changed.dts = number
            changed.time_base = Fraction(1, 25)
            changed.is_keyframe, changed.stream = is_key, stream
            copy.mux(changed)
