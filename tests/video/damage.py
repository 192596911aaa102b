"""Videos with damaged bytes: flipped, cut, spliced, zeroed, repeated, mixed with others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np

from tests.video.videos import Recipe

_X264 = {"bf": "2", "g": "8"}
_AV1 = {"g": "5", "preset": "12", "svtav1-params": "lp=1"}
RECIPES = [
    Recipe("h264.mp4", count=24, options=_X264),
    Recipe("h264.mkv", count=24, options=_X264),
    Recipe("h264.ts", count=24, options=_X264),
    Recipe("h264.avi", count=24, options=_X264),
    Recipe("h264.flv", count=24, options=_X264),
    Recipe("raw.h264", count=24, options=_X264),
    Recipe("front.mp4", count=24, options=_X264, muxer_options={"movflags": "faststart"}),
    Recipe("fragments.mp4", count=24, options=_X264, muxer_options={"movflags": "frag_keyframe+empty_moov"}),
    Recipe("hevc.mp4", codec="libx265", count=20, options={"x265-params": "keyint=8:bframes=2:log-level=none:pools=1"}),
    Recipe("hevc.mkv", codec="libx265", count=20, options={"x265-params": "keyint=8:bframes=2:log-level=none:pools=1"}),
    Recipe("vp9.webm", codec="libvpx-vp9", count=20, options={"g": "8", "cpu-used": "8", "lag-in-frames": "5"}),
    Recipe("vp9.mp4", codec="libvpx-vp9", count=20, options={"g": "8", "cpu-used": "8"}),
    Recipe("vp8.webm", codec="libvpx", count=24, options={"g": "8", "deadline": "realtime"}),
    Recipe("av1.mp4", codec="libsvtav1", count=10, size=(64, 64), options=_AV1),
    Recipe("av1.webm", codec="libsvtav1", count=10, size=(64, 64), options=_AV1),
    Recipe("mpeg4.avi", codec="mpeg4", count=24, options={"bf": "2", "g": "8"}),
    Recipe("mpeg4.mkv", codec="mpeg4", count=24, options={"g": "8"}),
    Recipe("mpeg2.ts", codec="mpeg2video", count=24, options={"bf": "2", "g": "8"}),
    Recipe("mjpeg.mov", codec="mjpeg", count=12, pixel_format="yuvj420p"),
    Recipe("left.mp4", count=12, turned_left_deg=90, options=_X264),
]


def _flip(data: bytearray, other: bytes, rng: np.random.Generator) -> bytearray:
    for _ in range(int(rng.choice([1, 3, 10, 50, 200]))):
        data[int(rng.integers(len(data)))] = int(rng.integers(256))
    return data


def _flip_at_the_edges(data: bytearray, other: bytes, rng: np.random.Generator) -> bytearray:
    """Headers and indexes stand at the beginning or at the end."""
    for _ in range(int(rng.choice([1, 2, 5, 20]))):
        at = int(rng.integers(min(1500, len(data))))
        data[at if rng.random() < 0.5 else -1 - at] = int(rng.choice([0, 1, 127, 128, 255, rng.integers(256)]))
    return data


def _cut(data: bytearray, other: bytes, rng: np.random.Generator) -> bytearray:
    return data[: int(rng.integers(1, len(data)))]


def _behead(data: bytearray, other: bytes, rng: np.random.Generator) -> bytearray:
    return data[int(rng.integers(1, len(data))) :]


def _remove(data: bytearray, other: bytes, rng: np.random.Generator) -> bytearray:
    start, end = _stretch(data, rng)
    return data[:start] + data[end:]


def _zero(data: bytearray, other: bytes, rng: np.random.Generator) -> bytearray:
    start, end = _stretch(data, rng)
    data[start:end] = bytes(end - start)
    return data


def _repeat(data: bytearray, other: bytes, rng: np.random.Generator) -> bytearray:
    start, end = _stretch(data, rng)
    return data[:end] + data[start:end] * int(rng.integers(1, 4)) + data[end:]


def _splice(data: bytearray, other: bytes, rng: np.random.Generator) -> bytearray:
    start, end = _stretch(bytearray(other), rng)
    at = int(rng.integers(len(data)))
    return data[:at] + other[start:end] + data[at:]


def _overwrite(data: bytearray, other: bytes, rng: np.random.Generator) -> bytearray:
    start, end = _stretch(data, rng)
    data[start:end] = other[: end - start]
    return data


def _stretch(data: bytearray, rng: np.random.Generator) -> tuple[int, int]:
    start = int(rng.integers(len(data)))
    return start, min(len(data), start + int(rng.choice([1, 4, 30, 300, len(data)])))


_DAMAGES: list[Callable[[bytearray, bytes, np.random.Generator], bytearray]] = [
    *(_flip, _flip_at_the_edges, _cut, _behead, _remove, _zero, _repeat, _splice, _overwrite),
]


def damaged_videos(folder: Path, count: int, seed: int) -> Iterator[Path]:
    """Paths of videos, each damaged once to three times; the file is gone when the next one is asked for."""
    rng = np.random.default_rng(seed)
    sound = [recipe.make(folder).read_bytes() for recipe in RECIPES]
    for number in range(count):
        which, other = number % len(sound), sound[int(rng.integers(len(sound)))]
        data = bytearray(sound[which])
        for _ in range(int(rng.choice([1, 1, 2, 3]))):
            data = _DAMAGES[int(rng.integers(len(_DAMAGES)))](data, other, rng) or data
        path = folder / f"{number:04d}-{RECIPES[which].file_name}"
        path.write_bytes(data)
        yield path
        path.unlink()


# Decoders that report damage.
_CHECKED = ("h264", "raw.h264", "front", "fragments", "mpeg4", "mpeg2")


def burst_videos(folder: Path, count: int, seed: int) -> Iterator[tuple[Path, Path, np.random.Generator]]:
    """Videos in which 4 to 60 bytes of one packet are damaged: path, path of the sound one, generator for choices."""
    rng = np.random.default_rng(seed)
    paths = [recipe.make(folder) for recipe in RECIPES if recipe.file_name.startswith(_CHECKED)]
    for number in range(count):
        source = paths[number % len(paths)]
        data = bytearray(source.read_bytes())
        with av.open(str(source)) as container:
            packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
        position, size = packets[int(rng.integers(len(packets)))]
        length = int(rng.integers(4, 61))
        start = min(position + int(rng.integers(size)), len(data) - length)
        data[start : start + length] = [rng.bytes(length), bytes(length), b"\xff" * length][int(rng.integers(3))]
        path = folder / f"{number:04d}-{source.name}"
        path.write_bytes(data)
        yield path, source, rng
        path.unlink()
