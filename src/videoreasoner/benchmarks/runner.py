"""One function runs any benchmark: ask, score, summarise; a killed run goes on where it stopped.

A run is a folder:

    run.json         what is asked of what: benchmark, mode, hashes, settings; a folder holds one run
    answers/         the questions in parts and their answers with all evidence, as they come
    results.jsonl    one line a question: what was answered, parsed and scored, and what it cost
    summary.json     metrics with intervals, hashes, versions, machine, command

The last two are small and say all that a table or a comparison needs.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from videoreasoner.benchmarks.benchmark import Benchmark, Candidate
from videoreasoner.benchmarks.parts import Errand, Part, Progress, answer_parts, divide
from videoreasoner.benchmarks.results import Metrics, as_data, from_data, result, summarise
from videoreasoner.errors import EvaluationError, SettingError
from videoreasoner.inference.query import check_mode
from videoreasoner.utils.files import locked, replacing
from videoreasoner.utils.hashing import hash_data

RUN_FILE, RESULTS_FILE, SUMMARY_FILE = "run.json", "results.jsonl", "summary.json"
_LOCK_FILE = ".lock"

# Small enough that workers end together, large enough that files are few.
_VIDEOS_A_PART = 8
_PACKAGES = ("videoreasoner", "torch", "transformers", "av", "numpy")


@dataclass(frozen=True)
class Run:
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
        """Questions that could not be asked; running again asks them again."""
        return int(self.summary["failed"])


def run(
    benchmark: Benchmark,
    candidate: Candidate,
    out: Path,
    *,
    mode: str = "focus",
    workers: int = 1,
    videos_a_part: int = _VIDEOS_A_PART,
    command: Sequence[str] | None = None,
    progress: Progress = lambda done, total: None,
) -> Run:
    """Ask a candidate a benchmark's questions and score the answers.

    Called again for the same run, it asks only what is missing, and loads nothing when nothing is. Answers, scores and
    intervals do not depend on `workers`, `videos_a_part` or the order of rows. Times do, and so does which question of
    a video is charged for work that they share.

    Args:
        benchmark: the questions.
        candidate: what is asked.
        out: folder of the run.
        mode: "focus", "direct" or "think".
        workers: processes that load the candidate and answer; 1 does it in this one.
        videos_a_part: videos whose questions a worker takes at a time; decided by the first call for a folder.
        command: what is recorded as the command; by default that of this process.
        progress: told (questions done, questions in all).

    Raises:
        EvaluationError: the folder holds another run or is in use, or a worker died.
        VideoReasonerError: the candidate cannot be loaded.
    """
    check_how(mode, workers)
    candidate_identity = candidate.identity()
    identity = {"benchmark": benchmark.name, "data_hash": benchmark.data_hash, "mode": mode, **candidate_identity}
    if (finished := _read_only(out, identity)) is not None:
        return finished
    with ExitStack() as stack:
        with _writing(out):
            out.mkdir(parents=True, exist_ok=True)
            busy = EvaluationError(f"{out}: another run is writing there; wait for it, or give --out another")
            stack.enter_context(locked(out / _LOCK_FILE, busy))
            parts = _parts(benchmark, out, identity, videos_a_part)
        asked = answer_parts(Errand(candidate, mode, benchmark.video_root), parts, workers, progress)
        with _writing(out):
            made = _made(list(command or sys.argv), workers)
            # A call that only scores again does not claim that the answers are from its machine.
            if not asked and (out / SUMMARY_FILE).exists():
                made = {key: load_run(out).summary[key] for key in made}
            return _finish(benchmark, parts, out, identity, made)


def check_how(mode: str, workers: int) -> None:
    """Refuse an unknown mode or number of workers.

    Raises:
        SettingError
    """
    check_mode(mode)
    if workers < 1:
        raise SettingError(f"--workers must be 1 or more, not {workers}")


def load_run(folder: Path) -> Run:
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
    return Run(folder, results, summary)


def _read_only(out: Path, identity: dict[str, Any]) -> Run | None:
    """The run, where it is finished in a folder that cannot be written; there it is not scored again."""
    if not (out / SUMMARY_FILE).exists() or os.access(out, os.W_OK):
        return None
    found = load_run(out)
    is_it = found.summary["hashes"].get("run_hash") == hash_data(identity) and not found.failed
    return found if is_it else None


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise EvaluationError(
            f"{out}: cannot be used ({error.strerror or error}); give --out a folder that is writable and has room"
        ) from error


def _parts(benchmark: Benchmark, out: Path, identity: dict[str, Any], videos_a_part: int) -> list[Part]:
    """The run's questions in parts, after checking that the folder is free or holds this very run."""
    path = out / RUN_FILE
    # What is compared has been through JSON on both sides.
    wanted = json.loads(json.dumps(identity))
    if path.exists():
        try:
            there = json.loads(path.read_text(encoding="utf-8"))
            videos_a_part, found = there["videos_a_part"], there["identity"]
        except (ValueError, LookupError, TypeError) as error:
            raise EvaluationError(f"{path}: not the start of a run ({error}); give --out another folder") from error
        differing = sorted(key for key in {*found, *wanted} if found.get(key) != wanted.get(key))
        if differing:
            raise EvaluationError(f"{out}: holds a run with another {', '.join(differing)}; give --out another folder")
    elif any(path.name != _LOCK_FILE for path in out.iterdir()):
        raise EvaluationError(f"{out}: holds something else than a run; give --out a new folder")
    with replacing(path) as partial:
        content = {"identity": wanted, "videos_a_part": videos_a_part}
        partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return divide(benchmark.rows, out / "answers", videos_a_part)


def _finish(
    benchmark: Benchmark, parts: Sequence[Part], out: Path, identity: dict[str, Any], made: dict[str, Any]
) -> Run:
    hashes = {"data_hash": benchmark.data_hash, "run_hash": hash_data(identity)}
    hashes |= {"model_hash": identity["model_hash"], "settings_hash": hash_data(identity["settings"])}
    answers = {record["id"]: record for part in parts for record in part.records()}
    # In one order, whatever that of the rows: resampling for the intervals goes by it.
    rows = sorted(benchmark.rows, key=lambda row: (row.video, row.id))
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
        **made,
    }
    with replacing(out / RESULTS_FILE) as partial:
        partial.write_text("".join(json.dumps(item) + "\n" for item in results), encoding="utf-8")
    with replacing(out / SUMMARY_FILE) as partial:
        partial.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    return Run(out, results, summary)


def _made(command: list[str], workers: int) -> dict[str, Any]:
    """How the answers came about, as far as times may depend on it."""
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
