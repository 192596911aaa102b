"""What a question costs: `direct`, `focus`, and a naive version of the pipeline, on one video in one run.

    python -m bench.ask --out out/bench-ask [--repeats 3] [--minutes 2] [--device cuda --shape 7b]

The model has random weights. Its text means nothing, but its times do. All tasks write the same number of tokens in
every variant, and the naive variant gets the frames that `focus` chose, so only the way of computing differs:

    naive    three passes with transformers' `generate`: event, key elements, answer; each decodes its frames, encodes
             them and prefills its prompt from nothing, and retrieval decodes the video once more
    focus    `Reasoner.ask(mode="focus")`
    direct   `Reasoner.ask(mode="direct")`, the same frame budget

The variants take turns, and medians are compared. Peak memory is measured in a separate process for each variant.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from bench.footage import make_video
from bench.shapes import SHAPES, save_random_checkpoint, save_random_clip
from videoreasoner import Reasoner, VideoFile
from videoreasoner.inference.answer import Answer
from videoreasoner.inference.query import Query
from videoreasoner.models.positions import ClipTokens, temporal_indices
from videoreasoner.retrieval.keyframes import retrieval_times
from videoreasoner.tasks import Task
from videoreasoner.utils.stopwatch import Stopwatch
from videoreasoner.video.patches import patchify, resize
from videoreasoner.video.sampling import uniform_plan

STAGES = ("decode", "retrieve", "encode", "prefill", "generate")
QUESTION = "What does the person take from the table before leaving the room?"
OPTIONS = ("a book", "a cup", "a phone", "a lamp")
NEW_TOKENS = 24


class Naive:
    """The same questions as a script around `generate` would ask them."""

    def __init__(self, reasoner: Reasoner, video_file: Path) -> None:
        self.reasoner, self.video_file = reasoner, video_file
        self.checkpoint = reasoner.engine.checkpoint  # type: ignore[attr-defined]

    def ask(self, like: Answer) -> dict[str, float]:
        """Seconds by stage for the work behind an answer of `focus`."""
        device = self.checkpoint.model.device
        watch = Stopwatch(torch.cuda.synchronize if device.type == "cuda" else None)
        with VideoFile(self.video_file) as video_file:
            uniform = uniform_plan(video_file.duration_s, self.reasoner.settings.sampling).times_s
        for task in (Task.EVENT, Task.KEY_ELEMENTS):
            self._pass(uniform.tolist(), task, watch)
        self._retrieve(like.key_elements, watch)
        self._pass([frame.time_s for frame in like.frames], Task.ANSWER, watch)
        return dict(watch.seconds)

    def _pass(self, times_s: list[float], task: Task, watch: Stopwatch) -> None:
        checkpoint = self.checkpoint
        with watch.stage("decode"), VideoFile(self.video_file) as video_file:
            frames = [resize(image[np.newaxis], checkpoint.patches) for _, image in video_file.iter_frames_at(times_s)]
            patches = patchify(torch.cat(frames), checkpoint.patches)
        _, height, width = patches.grid
        merge = checkpoint.patches.merge_size
        clip = ClipTokens(height // merge, width // merge, temporal_indices(times_s[::2], None))
        trunk = checkpoint.encoder.trunk([clip])
        rest = (*checkpoint.encoder.question(QUESTION, OPTIONS), *checkpoint.encoder.prefix(task))
        ids = torch.cat([trunk.input_ids, torch.tensor(rest)])[None].to(checkpoint.model.device)
        with torch.inference_mode(), _split(checkpoint.model, watch):
            checkpoint.model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                mm_token_type_ids=(ids == trunk.video_token_id).long() * 2,
                pixel_values_videos=patches.pixel_values.to(ids.device, checkpoint.model.dtype),
                video_grid_thw=torch.tensor([patches.grid], device=ids.device),
                do_sample=False,
                max_new_tokens=NEW_TOKENS,
                min_new_tokens=NEW_TOKENS,
            )

    def _retrieve(self, elements: list[str], watch: Stopwatch) -> None:
        encoder, settings = self.reasoner.encoder, self.reasoner.settings
        if encoder is None or not elements:
            return
        with watch.stage("retrieve"), VideoFile(self.video_file) as video_file:
            wanted = retrieval_times(video_file.duration_s, settings.retrieval_rate_fps, settings.retrieval_max_frames)
            encoder.encode_images(np.stack([image for _, image in video_file.iter_frames_at(wanted)]))
            encoder.encode_texts(elements)


@contextmanager
def _split(model: Any, watch: Stopwatch) -> Iterator[None]:
    """Book one `generate` under encode (vision tower), prefill (first pass of the language model) and generate."""
    spent: dict[str, float] = {}
    started = time.perf_counter()

    def timed(name: str) -> tuple[Callable[..., None], Callable[..., None]]:
        def before(*_: Any) -> None:
            spent.setdefault(f"{name} began", watch_now())

        def after(*_: Any) -> None:
            spent.setdefault(name, watch_now() - spent[f"{name} began"])

        return before, after

    def watch_now() -> float:
        if model.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    hooks = []
    for name, module in (("encode", model.model.visual), ("prefill", model.model.language_model)):
        before, after = timed(name)
        hooks += [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
    total = watch_now() - started
    for name in ("encode", "prefill"):
        watch.seconds[name] += spent[name]
    watch.seconds["generate"] += total - spent["encode"] - spent["prefill"]


def never_ends(reasoner: Reasoner) -> None:
    """Zero the end tokens' rows: random logits beat a 0, so every completion has its full length."""
    checkpoint = reasoner.engine.checkpoint  # type: ignore[attr-defined]
    with torch.no_grad():
        checkpoint.model.get_output_embeddings().weight[list(checkpoint.end_ids)] = 0


class Bench:
    """A video, a random model and a random text-image encoder, and the variants on them."""

    def __init__(self, options: argparse.Namespace) -> None:
        out: Path = options.out
        out.mkdir(parents=True, exist_ok=True)
        self.video_file = out / f"video-{options.minutes}min.mp4"
        make_video(self.video_file, codec="h264", minutes=options.minutes, gop_s=5, width=1280, height=720)
        model = save_random_checkpoint(out, SHAPES[options.shape])
        encoder = save_random_clip(out)
        dtype = torch.bfloat16 if options.device == "cuda" else torch.float32
        self.reasoner = Reasoner.from_pretrained(
            str(model),
            device=options.device,
            dtype=dtype,
            frame_budget=options.frames,
            max_pixels=options.pixels,
            min_pixels=min(options.pixels, 4 * 28 * 28),
            max_new_tokens=NEW_TOKENS,
            encoder=str(encoder),
            sparse_seek=options.sparse_seek,
        )
        never_ends(self.reasoner)
        self.naive = Naive(self.reasoner, self.video_file)

    @cached_property
    def focused(self) -> Answer:
        return self.reasoner.ask(self.video_file, QUESTION, OPTIONS)

    def run(self, variant: str) -> dict[str, float]:
        """Seconds of each stage, and of all together as "total"."""
        started = time.perf_counter()
        if variant == "naive":
            seconds = self.naive.ask(self.focused)
        elif variant.startswith("ten"):
            queries = [Query(f"{number}. {QUESTION}", OPTIONS) for number in range(10)]
            answers = self.reasoner.ask_many(self.video_file, queries, variant.split()[-1])
            seconds = defaultdict(float)
            for answer in answers:
                for stage in STAGES:
                    seconds[stage] += answer.timing.get(stage, 0.0)
        else:
            seconds = dict(self.reasoner.ask(self.video_file, QUESTION, OPTIONS, variant).timing)
        return {**seconds, "total": time.perf_counter() - started}


VARIANTS = ("direct", "focus", "naive", "ten direct", "ten focus")


def peak_memory(options: argparse.Namespace, variant: str) -> float:
    """GB that one question takes at most, in a process of its own."""
    arguments = [f"--{k.replace('_', '-')}={v}" for k, v in vars(options).items() if v is not None and k != "memory"]
    printed = subprocess.run(
        [sys.executable, "-m", "bench.ask", *arguments, f"--memory={variant}"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return float(json.loads(printed.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=int, default=2, help="length of the video")
    parser.add_argument("--frames", type=int, default=64)
    parser.add_argument("--pixels", type=int, default=64 * 28 * 28, help="most pixels of a resized frame")
    parser.add_argument("--shape", choices=SHAPES, default="small")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--sparse-seek", default="exact")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory", choices=VARIANTS, help="print the peak memory of one variant and nothing else")
    options = parser.parse_args()
    bench = Bench(options)
    if options.memory:
        bench.run(options.memory)
        if options.device == "cuda":
            print(torch.cuda.max_memory_allocated() / 1e9)
        else:
            print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9)
        return
    # Before anything is timed: the first variant should not pay for what is loaded on first use.
    frames = len(bench.focused.frames)
    runs: dict[str, list[dict[str, float]]] = defaultdict(list)
    for repeat in range(options.repeats):
        for variant in VARIANTS:
            runs[variant].append(bench.run(variant))
            total = runs[variant][-1]["total"]
            print(f"{repeat + 1}/{options.repeats} {variant}: {total:.2f} s", file=sys.stderr, flush=True)
    parameters = sum(p.numel() for p in bench.naive.checkpoint.model.parameters())
    print(f"{parameters / 1e6:.0f} M parameters, {frames} frames, video of {options.minutes} min")
    print(f"| variant | {' | '.join(STAGES)} | total | x direct | peak memory |")
    print("|---|" + "---:|" * (len(STAGES) + 3))
    direct = median(run["total"] for run in runs["direct"])
    for variant in VARIANTS:
        middle = {stage: median(run.get(stage, 0.0) for run in runs[variant]) for stage in (*STAGES, "total")}
        cells = " | ".join(f"{middle[stage]:.2f} s" for stage in (*STAGES, "total"))
        cells += f" | {middle['total'] / direct:.2f} | {peak_memory(options, variant):.2f} GB"
        print(f"| {variant} | {cells} |", flush=True)
    focus, naive = (median(run["total"] for run in runs[variant]) for variant in ("focus", "naive"))
    print(f"\nfocus / direct {focus / direct:.2f}, naive / focus {naive / focus:.2f}")


if __name__ == "__main__":
    main()
