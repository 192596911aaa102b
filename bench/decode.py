"""Decoding against torchcodec and decord2, side by side in one run: the numbers of docs/benchmarks.md, "Decoding".

    python -m venv out/peers
    out/peers/bin/pip install torch==2.13.0 "torchcodec==0.12.*" "decord2==3.4.*" av numpy
    apt-get install ffmpeg                                                      # its libraries are what torchcodec uses
    PYTHONPATH=src out/peers/bin/python -m bench.decode [--threads N] [--repetitions 5]
    PYTHONPATH=src out/peers/bin/python -m bench.decode --sweep

Every repetition opens the file again and times opening and decoding together. The readers take turns, so that other
work on the machine affects all of them. The file is in the page cache. All readers get the same number of threads.
Every frame carries its number, so the frames that a reader returned are checked. A peer that is not installed is
left out, and named. Videos are built once, into `--videos`.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from bench.footage import FPS, MINUTE_S, make_video, number_of
from videoreasoner.video.isolated.file import GuardedVideoFile
from videoreasoner.video.pyav.file import VideoFile

Reader = Callable[[Path, Sequence[float]], Any]
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
# What a reader may raise on a video that it cannot read.
FAILURES = (RuntimeError, OSError, ValueError, IndexError)


@dataclass(frozen=True)
class Video:
    codec: str = "h264"
    minutes: int = 20
    gop_s: int = 10
    width: int = 1280
    height: int = 720

    def build(self, folder: Path) -> Path:
        path = folder / f"{self.codec}-{self.minutes}min-{self.gop_s}s-{self.width}x{self.height}.mp4"
        if not path.exists():
            print(f"building {path} ...", file=sys.stderr, flush=True)
            make_video(
                path, codec=self.codec, minutes=self.minutes, gop_s=self.gop_s, width=self.width, height=self.height
            )
        return path

    def uniform(self, frames: int) -> list[float]:
        slot_s = self.minutes * MINUTE_S / frames
        # In the middle of a frame, where no rounding decides.
        return [(int((n + 0.5) * slot_s * FPS) + 0.5) / FPS for n in range(frames)]


SPAN_S = [600 + (n * 6 + 0.5) / FPS for n in range(100)]


def ours(path: Path, times_s: Sequence[float], *, seek: str, threads: int) -> Any:
    with VideoFile(path, threads=threads) as video:
        return video.frames_at(times_s, seek).pixels


def guarded(path: Path, times_s: Sequence[float], *, seek: str, threads: int) -> Any:
    with GuardedVideoFile(path, threads=threads) as video:
        return video.frames_at(times_s, seek).pixels


def torchcodec(path: Path, times_s: Sequence[float], *, mode: str, threads: int) -> Any:
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(str(path), seek_mode=mode, num_ffmpeg_threads=threads, dimension_order="NHWC")
    return decoder.get_frames_played_at(list(times_s)).data.numpy()


def decord(path: Path, times_s: Sequence[float], *, threads: int) -> Any:
    import decord

    with _without_stderr():
        reader = decord.VideoReader(str(path), num_threads=threads)
        return reader.get_batch([int(time_s * FPS) for time_s in times_s]).asnumpy()


@contextmanager
def _without_stderr() -> Iterator[None]:
    """decord2 writes a line about every seek that fails."""
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


def available_readers(threads: int, clock: str) -> dict[str, Reader]:
    found: dict[str, Reader] = {
        "keyframe": partial(ours, seek="keyframe", threads=threads),
        "exact": partial(ours, seek="exact", threads=threads),
    }
    if clock == "wall":
        # Its processor time is spent in another process.
        found["keyframe, guarded"] = partial(guarded, seek="keyframe", threads=threads)
        found["exact, guarded"] = partial(guarded, seek="exact", threads=threads)
    for module, name, made in (
        ("torchcodec", "torchcodec exact", partial(torchcodec, mode="exact", threads=threads)),
        ("torchcodec", "torchcodec approximate", partial(torchcodec, mode="approximate", threads=threads)),
        ("decord", "decord2", partial(decord, threads=threads)),
    ):
        if importlib.util.find_spec(module) is None:
            print(f"{name}: not installed, left out (the head of {__file__} says how)", file=sys.stderr)
        else:
            found[name] = made
    return found


@dataclass(frozen=True)
class Result:
    """Median seconds, and how many of the frames are not those asked for; None where the reader failed."""

    seconds: float | None
    wrong: int = 0

    def __str__(self) -> str:
        if self.seconds is None:
            return "fails"
        return f"{self.seconds:.2f} s" + (f" ({self.wrong} wrong)" if self.wrong else "")


def measure(
    path: Path, times_s: Sequence[float], found: dict[str, Reader], repetitions: int, clock: str
) -> dict[str, Result]:
    now = CLOCKS[clock]
    seconds: dict[str, list[float]] = {name: [] for name in found}
    wrong: dict[str, int] = dict.fromkeys(found, 0)
    failed: set[str] = set()
    expected = [int(time_s * FPS) % (MINUTE_S * FPS) for time_s in times_s]
    for repetition in range(repetitions):
        for name, read in found.items():
            if name in failed:
                continue
            started = now()
            try:
                pixels = read(path, times_s)
            except FAILURES as error:
                print(f"{name} on {path.name}: {error}", file=sys.stderr)
                failed.add(name)
                continue
            seconds[name].append(now() - started)
            if repetition == 0 and "keyframe" not in name:
                wrong[name] = sum(number_of(p) != e for p, e in zip(np.asarray(pixels), expected, strict=True))
    return {name: Result(None if name in failed else statistics.median(seconds[name]), wrong[name]) for name in found}


def ratio(results: dict[str, Result], slower: str, faster: str) -> str:
    a, b = (results[name].seconds if name in results else None for name in (slower, faster))
    return "not measured" if a is None or b is None else f"{a / b:.2f}x"


def print_rows(title: str, results: dict[str, Result]) -> None:
    print(f"\n{title}\n\n| reader | median | frames that are not those asked for |\n|---|---|---|")
    for name, result in results.items():
        seconds = "fails" if result.seconds is None else f"{result.seconds:.2f} s"
        print(f"| {name} | {seconds} | {'' if 'keyframe' in name else result.wrong} |")


def compare(options: argparse.Namespace, found: dict[str, Reader]) -> None:
    video = Video()
    path = video.build(options.videos)
    uniform = measure(path, video.uniform(64), found, options.repetitions, options.clock)
    print_rows("64 frames, evenly spread over 20 minutes (1280x720, H.264, a key frame every 10 s)", uniform)
    spans = {name: read for name, read in found.items() if "keyframe" not in name}
    span = measure(path, SPAN_S, spans, options.repetitions, options.clock)
    print_rows("100 frames in one span of 24 s of that video", span)
    print("\n| target | is |\n|---|---|")
    for slower in ("torchcodec exact", "torchcodec approximate", "decord2"):
        print(f"| keyframe at least 10x faster than {slower} | {ratio(uniform, slower, 'keyframe')} |")
    print(f"| exact at least 1.3x faster than torchcodec exact | {ratio(uniform, 'torchcodec exact', 'exact')} |")
    print(f"| span no slower than torchcodec exact (1x or more) | {ratio(span, 'torchcodec exact', 'exact')} |")
    if "exact, guarded" in found:
        print(f"| cost of the guarded process, exact | {ratio(uniform, 'exact, guarded', 'exact')} |")
        print(f"| cost of the guarded process, keyframe | {ratio(uniform, 'keyframe, guarded', 'keyframe')} |")
        print(f"| cost of the guarded process, span | {ratio(span, 'exact, guarded', 'exact')} |")


def sweep(options: argparse.Namespace, found: dict[str, Reader]) -> None:
    """One thing changes at a time."""
    middle = Video(width=640, height=360)
    points: list[tuple[Video, int]] = [(middle, 64)]
    points += [(replace(middle, minutes=minutes), 64) for minutes in (1, 5, 60)]
    points += [(replace(middle, gop_s=gop_s), 64) for gop_s in (1, 2, 5, 20)]
    points += [(middle, frames) for frames in (8, 256)]
    points += [(replace(middle, codec=codec), 64) for codec in ("hevc", "vp9", "av1")]
    found = {name: read for name, read in found.items() if "guarded" not in name}
    print("\n640x360; the fastest reader that gives the frames asked for is named.\n")
    print(f"| codec | minutes | GOP | frames | {' | '.join(found)} | fastest exact |")
    print("|---" * (5 + len(found)) + "|")
    for video, frames in points:
        results = measure(video.build(options.videos), video.uniform(frames), found, options.repetitions, options.clock)
        right = {
            name: result.seconds
            for name, result in results.items()
            if result.seconds is not None and not result.wrong and name != "keyframe"
        }
        fastest = min(right, key=right.__getitem__) if right else "none"
        cells = " | ".join(str(result) for result in results.values())
        print(
            f"| {video.codec} | {video.minutes} | {video.gop_s} s | {frames} | {cells} | {fastest} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=Path, default=Path("out/decode-videos"))
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="for every reader")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: for a machine that is busy; one thread")
    parser.add_argument("--sweep", action="store_true")
    options = parser.parse_args()
    options.videos.mkdir(parents=True, exist_ok=True)
    found = available_readers(options.threads, options.clock)
    packages = [name for name in ("av", "torchcodec", "torch", "decord2") if importlib.util.find_spec(name.rstrip("2"))]
    print(
        f"{platform.machine()}, {len(os.sched_getaffinity(0))} core(s), {options.threads} thread(s) for every reader, "
        f"medians of {options.repetitions}, {options.clock} time; Python {platform.python_version()}, "
        + ", ".join(f"{name} {version(name)}" for name in packages)
    )
    (sweep if options.sweep else compare)(options, found)


if __name__ == "__main__":
    main()
