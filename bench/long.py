"""What the search costs on long videos: `direct` and `focus` of a shipped model on 720p with a key frame every 10 s.

    python -m bench.long --out out/bench-long [--minutes 1 --minutes 10 --minutes 60] [--retrieval-seek exact]

The decoder runs in this process, so the user CPU time of the process is that of everything. The cost of the search is
that of the stage "search", which decodes the frames of the first pass as well, less the time that decoding those frames
alone takes.
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path

import numpy as np

from bench.footage import make_video
from videoreasoner import Reasoner, VideoFile
from videoreasoner.inference.answer import Answer
from videoreasoner.inference.stages import StageProgress
from videoreasoner.video.patches import resize
from videoreasoner.video.sampling import uniform_plan


class Clock:
    """Wall and user CPU seconds at the beginning of each stage of one answer."""

    def __init__(self) -> None:
        self.began: dict[str, tuple[float, float]] = {}

    def __call__(self, progress: StageProgress) -> None:
        self.began.setdefault(progress.stage, self.now())

    @staticmethod
    def now() -> tuple[float, float]:
        return time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_utime

    def between(self, first: str, second: str) -> tuple[float, float]:
        (a, b), (c, d) = self.began[first], self.began[second]
        return c - a, d - b


def ask(reasoner: Reasoner, video_file: Path, mode: str) -> tuple[Answer, Clock]:
    clock = Clock()
    with VideoFile(video_file) as video:
        answer = reasoner.ask(video, "What color is the circle?", ("red", "blue"), mode, progress=clock)
    clock.began["end"] = clock.now()
    return answer, clock


def decode_sparse(reasoner: Reasoner, video_file: Path) -> tuple[float, float]:
    """Wall and user CPU seconds that decoding and resizing the frames of the first pass takes."""
    patches = reasoner.engine.checkpoint.patches  # type: ignore[attr-defined]
    with VideoFile(video_file) as video:
        times_s = uniform_plan(video.duration_s, reasoner.settings.sampling).times_s
        before = Clock.now()
        for _, image in video.iter_frames_at(times_s):
            resize(image[np.newaxis], patches)
        after = Clock.now()
    return after[0] - before[0], after[1] - before[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=int, action="append")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--retrieval-seek", default="auto")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    reasoner = Reasoner.from_pretrained(options.model, retrieval_seek=options.retrieval_seek)
    print("| minutes | frames searched | direct | focus | focus / direct | search / focus |")
    print("|---:|---:|---:|---:|---:|---:|")
    for number, minutes in enumerate(options.minutes or (1, 10, 60)):
        video_file = options.out / f"h264-{minutes}min-10s-1280x720.mp4"
        if not video_file.exists():
            make_video(video_file, codec="h264", minutes=minutes, gop_s=10, width=1280, height=720)
        if number == 0:
            # What is loaded on first use is not measured.
            ask(reasoner, video_file, "focus")
        _, plain = ask(reasoner, video_file, "direct")
        answer, focus = ask(reasoner, video_file, "focus")
        direct_s, focus_s = plain.between("open", "end"), focus.between("open", "end")
        alone_s = decode_sparse(reasoner, video_file)
        search_s = [a - b for a, b in zip(focus.between("search", "locate"), alone_s, strict=True)]
        times = [f"{wall:.1f} s ({cpu:.1f} s CPU)" for wall, cpu in (direct_s, focus_s)]
        ratios = [f"{a[0] / b[0]:.2f} ({a[1] / b[1]:.2f})" for a, b in ((focus_s, direct_s), (search_s, focus_s))]
        print(f"| {minutes} | {answer.usage.frames_searched} | {' | '.join([*times, *ratios])} |", flush=True)


if __name__ == "__main__":
    main()
