"""`videoreasoner eval`: run benchmarks and compare runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from videoreasoner.cli.options import (
    COMMON_SETTINGS,
    DeviceOption,
    EventShareOption,
    EventsOption,
    ModelOption,
    ModeOption,
    WorkersOption,
    naming_flags,
    resumable,
    takes_settings,
)
from videoreasoner.utils.terminal import say

if TYPE_CHECKING:
    from videoreasoner.benchmarks.benchmark import Benchmark
    from videoreasoner.benchmarks.runner import BenchmarkRun
    from videoreasoner.inference.candidate import Candidate
    from videoreasoner.synthetic.questions import Split

app = typer.Typer(help="Run benchmarks and compare runs.", rich_markup_mode=None)

OutOption = Annotated[
    Path | None, typer.Option("--out", help="Folder of the run; the same command continues a killed run.")
]
VideosDirOption = Annotated[Path, typer.Option("--videos-dir", help="Folder in which videos are made and reused.")]
SizeOption = Annotated[int, typer.Option("--size", help="Width and height of the videos, in pixels.")]
SeedOption = Annotated[int, typer.Option("--seed", help="Seed of the held-out videos, at least 20000000.")]
ThreadsOption = Annotated[int, typer.Option("--threads", help="Number of torch threads in each process.")]

_VIDEOS_DIR = Path("out/eval/videos")
_SEED = 20_261_124
_SPLITS: dict[str, list[Split]] = {"plain": ["plain"], "detail": ["detail"], "both": ["plain", "detail"]}


@app.command()
@takes_settings(*COMMON_SETTINGS)
def synthetic(
    split: Annotated[Literal["plain", "detail", "both"], typer.Option("--split", help="Questions to ask.")] = "both",
    model: ModelOption = "tiny",
    mode: ModeOption = "focus",
    videos: Annotated[int, typer.Option("--videos", help="Number of videos.")] = 100,
    questions: Annotated[int, typer.Option("--questions", help="Questions about each video, in each split.")] = 1,
    duration: Annotated[float, typer.Option("--duration", help="Length of a video, in seconds.")] = 60.0,
    size: SizeOption = 96,
    events: EventsOption = (1, 3),
    event_share: EventShareOption = (0.12, 0.35),
    seed: SeedOption = _SEED,
    out: OutOption = None,
    videos_dir: VideosDirOption = _VIDEOS_DIR,
    workers: WorkersOption = 1,
    threads: ThreadsOption = 1,
    device: DeviceOption = "auto",
    *,
    settings: dict[str, Any],
) -> None:
    """Ask a model about held-out synthetic videos, score the answers, print a table with 95 % intervals.

    The same command continues a killed run and repeats nothing.

    Example: videoreasoner eval synthetic --split detail --mode direct
    """
    from videoreasoner.benchmarks.table import metric_tables
    from videoreasoner.benchmarks.tasks.synthetic import held_out_settings, synthetic_benchmark
    from videoreasoner.inference.candidate import LocalCandidate
    from videoreasoner.synthetic.world import WorldSettings

    candidate = LocalCandidate(model, device, threads, settings)
    _check(candidate, mode, workers)
    flags = {name: "--" + name.replace("_", "-") for name in ("videos", "size", "events", "event_share")}
    with (
        naming_flags(**flags, duration_s="--duration", questions_per_split="--questions"),
        resumable("making videos", "videos") as progress,
    ):
        video_settings = held_out_settings(
            seed, duration_s=duration, size=size, world=WorldSettings(events, event_share)
        )
        benchmark = synthetic_benchmark(videos_dir, videos, video_settings, _SPLITS[split], questions, progress)
    folder = out or Path("out/eval") / f"synthetic-{split}-{Path(model).resolve().name}-{mode}"
    done = _run(benchmark, candidate, folder, mode, workers)
    say(metric_tables(done.metrics) + "\n")
    _close([done])


@app.command()
@takes_settings(*COMMON_SETTINGS)
def needle(
    model: ModelOption = "tiny",
    length: Annotated[
        list[float] | None, typer.Option("--length", help="Length of the videos, in seconds; repeat in rising order.")
    ] = None,
    detail: Annotated[
        list[float] | None, typer.Option("--detail", help="Duration of the detail, in seconds; repeat in rising order.")
    ] = None,
    videos: Annotated[int, typer.Option("--videos", help="Number of videos for each length and detail.")] = 10,
    size: SizeOption = 96,
    seed: SeedOption = _SEED,
    out: OutOption = None,
    videos_dir: VideosDirOption = _VIDEOS_DIR,
    workers: WorkersOption = 1,
    threads: ThreadsOption = 1,
    device: DeviceOption = "auto",
    *,
    settings: dict[str, Any],
) -> None:
    """Measure direct and focus over lengths of videos and of a brief detail; write JSON and a heat map.

    Example, a minute or so: videoreasoner eval needle --length 10 --length 60 --detail 0.2 --detail 1 --videos 4
    """
    from videoreasoner.benchmarks.sweep import write_sweep
    from videoreasoner.benchmarks.tasks.needle import DETAILS_S, LENGTHS_S, Grid, needle_benchmark
    from videoreasoner.inference.candidate import LocalCandidate

    grid = Grid(tuple(length or LENGTHS_S), tuple(detail or DETAILS_S))
    candidate = LocalCandidate(model, device, threads, settings)
    _check(candidate, "focus", workers)
    folder = out or Path("out/eval") / f"needle-{Path(model).resolve().name}"
    with resumable("making videos", "cells") as progress:
        benchmark = needle_benchmark(videos_dir, grid, videos, size, seed, progress)
    runs = {mode: _run(benchmark, candidate, folder / mode, mode, workers) for mode in ("direct", "focus")}
    say(write_sweep(folder, grid, runs, model))
    _close(list(runs.values()))
    say(f"{folder}/needle.json and {folder}/needle.png")


@app.command("compare")
def compare_runs(
    run_a: Annotated[Path, typer.Argument(help="Folder of a run.")],
    run_b: Annotated[Path, typer.Argument(help="Folder of another run over the same data.")],
) -> None:
    """Print the differences between run B and run A, question by question, with 95 % intervals."""
    from videoreasoner.benchmarks.compare import compare
    from videoreasoner.benchmarks.runner import load_run
    from videoreasoner.benchmarks.table import difference_table

    a, b = load_run(run_a), load_run(run_b)
    differences = compare(a, b)
    say(f"A: {run_a}\nB: {run_b}\n")
    say(difference_table(differences))


def _check(candidate: Candidate, mode: str, workers: int) -> None:
    """Before videos are made: a typing mistake should not cost minutes."""
    from videoreasoner.benchmarks.runner import check_run_options

    check_run_options(mode, workers)
    candidate.identity()


def _run(benchmark: Benchmark, candidate: Candidate, out: Path, mode: str, workers: int) -> BenchmarkRun:
    from videoreasoner.benchmarks.runner import run_benchmark

    with resumable("answering", "questions") as progress:
        command = ["videoreasoner", *sys.argv[1:]]
        return run_benchmark(benchmark, candidate, out, mode=mode, workers=workers, command=command, progress=progress)


def _close(runs: list[BenchmarkRun]) -> None:
    """Say where the results are, and fail loudly if any question could not be asked."""
    from videoreasoner.cli.text import protocol_line
    from videoreasoner.errors import EvaluationError

    if protocol := protocol_line(runs[0].summary["identity"]["settings"]):
        say(f"protocol: {protocol}")
    for run in runs:
        say(f"{run.folder}: {run.summary['questions']} questions, {run.failed} could not be asked")
    if any(run.failed for run in runs):
        raise EvaluationError(
            "some questions could not be asked and are left out of the metrics; results.jsonl says why, and the same "
            "command asks them again"
        )
