"""One function runs any benchmark: ask, score, summarise. A killed run continues where it stopped.

A run is a folder:

    run.json         benchmark, model, mode, hashes and settings; a folder holds one run
    answers.jsonl    the answers with all evidence, as they come
    results.jsonl    one line for each question: what was answered, parsed and scored, and what it cost
    summary.json     metrics with intervals, hashes, versions, machine, command

The last two are small and hold all that a table or a comparison needs.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from videoreasoner.benchmarks.benchmark import Benchmark
from videoreasoner.benchmarks.results import Metrics, as_data, from_data, result, summarise
from videoreasoner.errors import EvaluationError
from videoreasoner.inference.candidate import Candidate
from videoreasoner.inference.query import check_mode
from videoreasoner.inference.records import by_video
from videoreasoner.inference.workers import WorkerConfig, answer_videos, check_workers
from videoreasoner.rows import Row
from videoreasoner.utils.files import replacing
from videoreasoner.utils.hashing import hash_data
from videoreasoner.utils.jsonl import RecordFile, read_records

RUN_FILE, ANSWERS_FILE, RESULTS_FILE, SUMMARY_FILE = "run.json", "answers.jsonl", "results.jsonl", "summary.json"

_PACKAGES = ("videoreasoner", "torch", "transformers", "av", "numpy")


@dataclass(frozen=True)
class BenchmarkRun:
    """A finished run.

    Attributes:
        folder: where it is.
        results: the lines of `results.jsonl`, in the order of videos and ids.
        summary: `summary.json`.
    """

    folder: Path
    results: list[dict[str, Any]]
    summary: dict[str, Any]

    @property
    def metrics(self) -> Metrics:
        return from_data(self.summary["metrics"])

    @property
    def failed(self) -> int:
        """Questions that could not be asked; the next run asks them again."""
        return int(self.summary["failed"])


def run_benchmark(
    benchmark: Benchmark,
    candidate: Candidate,
    out: Path,
    *,
    mode: str = "focus",
    workers: int = 1,
    command: Sequence[str] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> BenchmarkRun:
    """Ask a candidate a benchmark's questions and score the answers.

    Called again for the same run, it asks only the questions without an answer, and loads no model when there are
    none. Answers, scores and intervals do not depend on `workers` or the order of rows. Times do, and so does which
    question of a video is charged for work that they share.

    Args:
        benchmark: the questions.
        candidate: what is asked.
        out: folder of the run.
        mode: "focus", "direct" or "think".
        workers: processes that load the candidate and answer, each on a GPU of its own where there are several; 1 does
            it in this one.
        command: what is recorded as the command; by default that of this process.
        progress: told (questions done, questions in total).

    Raises:
        EvaluationError: the benchmark has no questions, or the folder holds another run or is in use.
        WorkerError: a worker died.
        SettingError: the mode or the number of workers makes no sense.
        VideoReasonerError: the candidate cannot be loaded.
    """
    check_run_options(mode, workers)
    rows = _ordered_rows(benchmark)
    identity = {
        "benchmark": benchmark.name,
        "data_hash": benchmark.data_hash,
        "mode": mode,
        **candidate.identity(),
    }
    if (finished := _read_only_run(out, identity)) is not None:
        return finished
    with RecordFile(out / ANSWERS_FILE, error=EvaluationError) as answers:
        _claim_folder(out, identity)
        answers.start()
        waiting = [row for row in rows if row.id not in answers.done]
        done = len(rows) - len(waiting)
        progress(done, len(rows))
        config = WorkerConfig(candidate, mode, benchmark.video_root)
        for record in answer_videos(config, by_video(waiting, benchmark.video_root), workers):
            answers.append(record)
            done += 1
            progress(done, len(rows))
        with _writing(out):
            origin = _origin(list(command or sys.argv), workers)
            # A call that only scores again does not claim that the answers are from its machine.
            if not waiting and (out / SUMMARY_FILE).exists():
                origin = {key: load_run(out).summary[key] for key in origin}
            return _finish(benchmark, rows, out, identity, origin)


def check_run_options(mode: str, workers: int) -> None:
    """Refuse an unknown mode or number of workers.

    Raises:
        SettingError
    """
    check_mode(mode)
    check_workers(workers)


def load_run(folder: Path) -> BenchmarkRun:
    """A finished run from its two small files.

    Raises:
        EvaluationError: there is none.
    """
    try:
        summary = json.loads((folder / SUMMARY_FILE).read_text(encoding="utf-8"))
        lines = (folder / RESULTS_FILE).read_text(encoding="utf-8").split("\n")
        results = [json.loads(line) for line in lines if line]
        if not isinstance(summary, dict) or not {"hashes", "failed", "metrics"} <= summary.keys():
            raise ValueError(f"{SUMMARY_FILE} is something else")
    except (OSError, ValueError) as error:
        raise EvaluationError(
            f"{folder}: not a finished run ({error}); it needs {SUMMARY_FILE} and {RESULTS_FILE}, which "
            "`videoreasoner eval` writes"
        ) from error
    return BenchmarkRun(folder, results, summary)


def _ordered_rows(benchmark: Benchmark) -> list[Row]:
    """The questions in a fixed order, because resampling for the intervals depends on the order."""
    rows = sorted(benchmark.rows, key=lambda row: (row.video, row.id))
    if not rows:
        raise EvaluationError(
            f"the benchmark {benchmark.name} has no questions; give it a list of rows (an iterator can be read once)"
        )
    if len({row.id for row in rows}) < len(rows):
        raise EvaluationError(f"the benchmark {benchmark.name} has two rows with the same id; ids name the answers")
    return rows


def _read_only_run(out: Path, identity: dict[str, Any]) -> BenchmarkRun | None:
    """The run, if it is finished in a folder that cannot be written; it is not scored again there."""
    if not (out / SUMMARY_FILE).exists() or os.access(out, os.W_OK):
        return None
    found = load_run(out)
    is_this_run = found.summary["hashes"].get("run_hash") == hash_data(identity) and not found.failed
    return found if is_this_run else None


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise EvaluationError(
            f"{out}: cannot be written ({error.strerror or error}); give --out a folder that is writable and has room"
        ) from error


def _claim_folder(out: Path, identity: dict[str, Any]) -> None:
    """Write the identity of the run into the folder, after checking that it is free or holds the same run."""
    path = out / RUN_FILE
    # Converted to JSON and back, because it is compared with values that were read from JSON.
    wanted = json.loads(json.dumps(identity))
    if path.exists():
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(found, dict):
                raise ValueError("it holds no object")
        except ValueError as error:
            raise EvaluationError(f"{path}: not the start of a run ({error}); give --out another folder") from error
        differing = sorted(key for key in {*found, *wanted} if found.get(key) != wanted.get(key))
        if differing:
            raise EvaluationError(f"{out}: holds a run with another {', '.join(differing)}; give --out another folder")
        return
    if any(not path.name.startswith(".") for path in out.iterdir()):
        raise EvaluationError(f"{out}: holds something else than a run; give --out a new folder")
    with _writing(out), replacing(path) as partial:
        partial.write_text(json.dumps(wanted, indent=2) + "\n", encoding="utf-8")


def _finish(
    benchmark: Benchmark, rows: Sequence[Row], out: Path, identity: dict[str, Any], origin: dict[str, Any]
) -> BenchmarkRun:
    """Score the answers, and write results and summary."""
    hashes = {"data_hash": benchmark.data_hash, "run_hash": hash_data(identity)}
    hashes |= {"model_hash": identity["model_hash"], "settings_hash": hash_data(identity["settings"])}
    answers = {str(record["id"]): record for record in read_records(out / ANSWERS_FILE)}
    results = [result(benchmark, row, answers[row.id], hashes) for row in rows]
    failed = sum("error" in item for item in results)
    if failed == len(results):
        raise EvaluationError(f"{out}: no question could be asked; the first says: {results[0]['error']}")
    summary = {
        "identity": identity,
        "hashes": hashes,
        "questions": len(results),
        "videos": len({item["video"] for item in results}),
        "failed": failed,
        "metrics": as_data(summarise(results)),
        **origin,
    }
    with replacing(out / RESULTS_FILE) as partial:
        partial.write_text("".join(json.dumps(item) + "\n" for item in results), encoding="utf-8")
    with replacing(out / SUMMARY_FILE) as partial:
        partial.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    return BenchmarkRun(out, results, summary)


def _origin(command: list[str], workers: int) -> dict[str, Any]:
    """Versions, machine and command, on which times may depend."""
    return {
        "versions": {**{name: version(name) for name in _PACKAGES}, "python": platform.python_version()},
        "machine": {
            "system": f"{platform.system()} {platform.machine()}",
            "cores": len(os.sched_getaffinity(0)),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "workers": workers,
        },
        "command": [Path(command[0]).name, *command[1:]],
    }
