"""Videos for measuring decoders: a camera pans over a detailed scene with moving objects, grain and cuts.

The cost of decoding depends on the content: a constant picture would make every decoder look fast. A 720p H.264 video
of this takes about 3 Mbit/s, as footage does. Every picture carries its number, so that a frame that was not asked for
can be recognised. Videos longer than a minute repeat their first minute, packet by packet.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from videoreasoner.utils.files import replacing

FPS = 25
SCENE_S = 7.0
MINUTE_S = 60
_BITS, _BAR = 12, 16
_ENCODERS = {
    "h264": ("libx264", {"preset": "superfast", "crf": "21", "bf": "3", "b-pyramid": "normal"}),
    "hevc": ("libx265", {"preset": "ultrafast", "crf": "28"}),
    "vp9": ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8", "crf": "36", "b": "0", "row-mt": "1"}),
    "av1": ("libsvtav1", {"preset": "12", "crf": "40"}),
}


def make_video(path: Path, *, codec: str, minutes: int, gop_s: int, width: int, height: int) -> None:
    """Write an mp4 with a key frame every `gop_s` seconds, which divide a minute, and nowhere else."""
    if not path.exists():
        minute = path.with_name(f"{codec}-1min-{gop_s}s-{width}x{height}.mp4")
        if not minute.exists():
            with replacing(minute) as partial:
                _encode_minute(partial, codec, gop_s, width, height)
        if minutes > 1:
            with replacing(path) as partial:
                _repeat(minute, partial, minutes)


def number_of(image: NDArray[np.uint8]) -> int:
    """The number that a picture, uint8[H, W, 3], carries: its place in the minute."""
    middles = image[_BAR // 2, _BAR // 2 : _BITS * _BAR : _BAR].mean(-1)
    return int(sum(1 << bit for bit, value in enumerate(middles) if value > 128))


def _encode_minute(path: Path, codec: str, gop_s: int, width: int, height: int) -> None:
    gop = gop_s * FPS
    encoder, options = _ENCODERS[codec]
    fixed = {
        "h264": {"x264-params": f"keyint={gop}:min-keyint={gop}:scenecut=0:open-gop=0"},
        "hevc": {"x265-params": f"keyint={gop}:min-keyint={gop}:scenecut=0:open-gop=0:log-level=none"},
        "vp9": {"g": str(gop), "keyint_min": str(gop)},
        "av1": {"g": str(gop), "svtav1-params": "scd=0:irefresh-type=2"},
    }[codec]
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream(encoder, rate=FPS, options={**options, **fixed})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        camera = _Camera(width, height)
        for number in range(MINUTE_S * FPS):
            frame = av.VideoFrame.from_ndarray(camera.picture(number), format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _repeat(minute: Path, path: Path, times: int) -> None:
    with av.open(str(path), "w", format="mp4") as container:
        stream = None
        for turn in range(times):
            with av.open(str(minute)) as source:
                original = source.streams.video[0]
                # Opaque: packets are copied, and no encoder of that name is needed.
                stream = stream or container.add_stream_from_template(original, opaque=True)
                shift = round(turn * MINUTE_S / (original.time_base or 1))
                for packet in source.demux(original):
                    if packet.size:
                        packet.pts, packet.dts = (packet.pts or 0) + shift, (packet.dts or 0) + shift
                        packet.stream = stream
                        container.mux(packet)


class _Camera:
    """Pictures of a scene, uint8[3 H / 2, W] in yuv420p; the n-th is always the same."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.rng = np.random.default_rng(20260101)
        tall, wide = height + 256, width + 512
        self.scenes = [
            (_texture(self.rng, tall, wide, 60), _texture(self.rng, tall // 2, wide // 2, 30)) for _ in range(4)
        ]
        self.things = [_texture(self.rng, height // 4, height // 4, 90) for _ in range(6)]
        self.grain = self.rng.normal(0, 2.0, (4, height, width)).astype(np.int16)

    def picture(self, number: int) -> NDArray[np.uint8]:
        width, height = self.width, self.height
        scene = int(number / FPS / SCENE_S)
        luma, chroma = self.scenes[scene % len(self.scenes)]
        x = int(128 + 120 * np.sin(number / 37 + scene)) * 2
        y = int(64 + 60 * np.cos(number / 53 + scene)) * 2
        picture = np.empty((height * 3 // 2, width), np.uint8)
        bright = luma[y : y + height, x : x + width].astype(np.int16)
        for which, thing in enumerate(self.things):
            side = len(thing)
            left = int((width - side) * (0.5 + 0.5 * np.sin(number / (21 + 5 * which) + which)))
            top = int((height - side) * (0.5 + 0.5 * np.cos(number / (17 + 7 * which) + scene)))
            bright[top : top + side, left : left + side] = thing
        bright += self.grain[number % len(self.grain)]
        picture[:height] = np.clip(bright, 0, 255)
        planes = picture[height:].reshape(2, height // 2, width // 2)
        planes[0] = chroma[y // 2 : y // 2 + height // 2, x // 2 : x // 2 + width // 2]
        planes[1] = 255 - planes[0]
        for bit in range(_BITS):
            picture[:_BAR, _BAR * bit : _BAR * (bit + 1)] = 235 if number >> bit & 1 else 16
        planes[:, : _BAR // 2, : _BITS * _BAR // 2] = 128
        return picture


def _texture(rng: np.random.Generator, height: int, width: int, contrast: float) -> NDArray[np.uint8]:
    """Noise with detail at every scale, as natural pictures have."""
    total = np.zeros((height, width))
    for octave in range(2, 8):
        cell = 2**octave
        coarse = rng.normal(size=(height // cell + 2, width // cell + 2))
        rows, columns = np.arange(height) / cell, np.arange(width) / cell
        across = _between(coarse, columns, axis=1)
        total += _between(across, rows, axis=0) * cell**0.8
    total *= contrast / total.std()
    return np.clip(total + 128, 16, 235).astype(np.uint8)


def _between(values: NDArray[np.float64], places: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """Linear interpolation of `values` at fractional `places` along an axis."""
    below = places.astype(int)
    share = (places - below).reshape((-1, 1) if axis == 0 else (1, -1))
    return values.take(below, axis) * (1 - share) + values.take(below + 1, axis) * share
