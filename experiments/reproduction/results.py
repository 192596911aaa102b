"""The result files of a reproduction: small enough to commit, and all that its page is made from.

recipe.json       what was run, and what had to come out
questions.json    the questions in their order: ids, videos, splits
arms/<arm>.json   of each evaluation, one column a metric; of each training, its curves
made.json         times, machine, versions
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from experiments.reproduction.jobs import Ledger, Record
from experiments.reproduction.plan import Plan
from experiments.reproduction.recipe import Metric, Mode, Reproduction, Split
from videoreasoner.benchmarks.results import scores
from videoreasoner.benchmarks.runner import Run, load_run
from videoreasoner.errors import EvaluationError
from videoreasoner.utils.files import replacing
from videoreasoner.utils.intervals import Estimate, estimate

METRICS: tuple[str, ...] = get_args(Metric)
_CURVES = ("loss", "reward", "kl", "parse_rate")
_POINTS = 100
_DIGITS = 4


@dataclass(frozen=True)
class Evaluation:
    """One arm, seed and mode: of each metric, a value a question. An arm that is not trained has no seed."""

    seed: int | None
    mode: Mode
    model_hash: str
    columns: dict[str, list[float]]


@dataclass(frozen=True)
class Curves:
    """What was logged in one training: steps, and for each name a value a step, or None where none was logged."""

    seed: int
    step: list[float]
    values: dict[str, list[float | None]]


@dataclass(frozen=True)
class ArmResults:
    """All evaluations and trainings of one arm."""

    evaluations: list[Evaluation]
    curves: list[Curves]


@dataclass(frozen=True)
class Results:
    """All result files.

    Attributes:
        questions: `ids`, `videos` and `splits`, in the order of the columns, and the `data_hash`.
        made: `date` of the last job, `wall_seconds`, each of the `machines` and `versions` that evaluated, and of each
            job `name`, `seconds`, `cpu_seconds`, `starts`.
    """

    recipe: Reproduction
    questions: dict[str, Any]
    arms: dict[str, ArmResults]
    made: dict[str, Any]

    def values(self, arm: str, mode: Mode, metric: str, split: Split = "all") -> NDArray[np.float64] | None:
        """float64[seeds, questions] of a split; one row for an arm without seeds; None without the metric."""
        found = [e.columns.get(metric) for e in self.arms[arm].evaluations if e.mode == mode]
        if not found or None in found:
            return None
        return np.asarray(found, dtype=np.float64)[:, self.of_split(split)]

    def of_split(self, split: Split) -> NDArray[np.bool_]:
        """bool[questions]."""
        return np.array([split in ("all", found) for found in self.questions["splits"]])

    def estimate(self, values: NDArray[np.float64], split: Split) -> Estimate:
        """Mean and interval of float64[seeds, questions]: averaged over seeds, drawn by videos."""
        videos = np.array(self.questions["videos"])[self.of_split(split)]
        return estimate(values.mean(axis=0), clusters=videos.tolist())


def collect(plan: Plan, ledger: Ledger, folder: Path) -> None:
    """Write the result files of a plan whose jobs are all done.

    Raises:
        EvaluationError: an evaluation is not there, was over other questions, or the folder cannot be written.
    """
    runs = {key: load_run(path) for key, path in plan.runs.items()}
    first = next(iter(runs.values()))
    files: dict[str, Any] = {
        "recipe": plan.recipe.model_dump(mode="json"),
        "questions": {
            "data_hash": first.summary["hashes"]["data_hash"],
            "ids": [item["id"] for item in first.results],
            "videos": [item["video"] for item in first.results],
            "splits": [item["groups"]["split"] for item in first.results],
        },
    }
    for run in runs.values():
        if run.summary["hashes"]["data_hash"] != first.summary["hashes"]["data_hash"] or run.failed:
            raise EvaluationError(f"{run.folder}: over other questions than {first.folder}; remove it and run again")
    for name in plan.recipe.arms:
        evaluations = [_evaluation(seed, mode, run) for (arm, seed, mode), run in runs.items() if arm == name]
        curves = [_curves(seed, path / "metrics.jsonl") for (arm, seed), path in plan.trained.items() if arm == name]
        files[f"arms/{name}"] = asdict(ArmResults(evaluations, curves))
    records = {name: ledger.read(name) for name in plan.jobs}
    done = {name: record for name, record in records.items() if record is not None}
    files["made"] = _made(done, [run.summary for run in runs.values()])
    try:
        (folder / "arms").mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            with replacing(folder / f"{name}.json") as partial:
                partial.write_text(_compact(content), encoding="utf-8")
    except OSError as error:
        reason = error.strerror or error
        raise EvaluationError(f"{folder}: cannot be written ({reason}); set another results_dir") from error


def read_results(folder: Path) -> Results:
    """The result files that `collect` wrote.

    Raises:
        EvaluationError: one is missing, or is not one of ours.
    """
    recipe = Reproduction.model_validate(_read(folder, "recipe"))
    arms = {name: _read(folder, f"arms/{name}") for name in recipe.arms}
    return Results(
        recipe,
        _read(folder, "questions"),
        {
            name: ArmResults([Evaluation(**e) for e in arm["evaluations"]], [Curves(**c) for c in arm["curves"]])
            for name, arm in arms.items()
        },
        _read(folder, "made"),
    )


def thinned(
    lines: Sequence[Mapping[str, Any]], points: int = _POINTS
) -> tuple[list[float], dict[str, list[float | None]]]:
    """The curves of `metrics.jsonl` in at most `points` points.

    Returns:
        Of each point its last step, and of each name the mean over the point's lines that have it.
    """
    names = [name for name in dict.fromkeys(name for line in lines for name in line) if name.split("/")[0] in _CURVES]
    bins = np.array_split(np.arange(len(lines)), min(points, len(lines)) or 1)
    steps = [float(lines[numbers[-1]]["step"]) for numbers in bins if len(numbers)]
    return steps, {name: [_mean([lines[i].get(name) for i in numbers]) for numbers in bins] for name in names}


def covered(intervals: Iterable[tuple[float, float]]) -> float:
    """The length of the union of intervals."""
    total, until = 0.0, float("-inf")
    for start, end in sorted(intervals):
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total


def _evaluation(seed: int | None, mode: Mode, run: Run) -> Evaluation:
    found = [scores(item) for item in run.results]
    shared = [metric for metric in METRICS if all(metric in item for item in found)]
    columns = {metric: [_rounded(item[metric]) for item in found] for metric in shared}
    return Evaluation(seed, mode, run.summary["hashes"]["model_hash"], columns)


def _curves(seed: int, path: Path) -> Curves:
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise EvaluationError(f"{path}: cannot be read ({error}); remove its folder and run again") from error
    return Curves(seed, *thinned(lines))


def _made(records: Mapping[str, Record], summaries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    ends = {name: record.ended or record.began for name, record in records.items()}
    return {
        "date": datetime.fromtimestamp(max(ends.values()), UTC).date().isoformat(),
        "wall_seconds": round(covered((record.began, ends[name]) for name, record in records.items())),
        "machines": _each({key: s["machine"][key] for key in ("system", "cores", "gpu")} for s in summaries),
        "versions": _each(summary["versions"] for summary in summaries),
        "jobs": [
            {
                "name": name,
                "seconds": round(ends[name] - record.began, 1),
                "cpu_seconds": round(record.cpu_seconds, 1),
                "starts": record.starts,
            }
            for name, record in records.items()
        ],
    }


def _each(found: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each different one, in the order in which they come."""
    different: list[dict[str, Any]] = []
    for one in found:
        if one not in different:
            different.append(one)
    return different


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return _rounded(sum(known) / len(known)) if known else None


def _rounded(value: float) -> float:
    """With as many digits as are of use; whole numbers without a point, which halves the files."""
    short = round(value, _DIGITS)
    return int(short) if short == int(short) else short


def _compact(content: Any) -> str:
    """JSON with a line for each list of numbers or words, so that a change shows where it is."""
    return _lines(content, 0) + "\n"


def _lines(content: Any, depth: int) -> str:
    inside = list(content.values()) if isinstance(content, dict) else content if isinstance(content, list) else []
    if not any(isinstance(value, (dict, list)) for value in inside):
        return json.dumps(content, separators=(",", ":"))
    pad = " " * (depth + 1)
    if isinstance(content, dict):
        body = [f"{pad}{json.dumps(key)}: {_lines(value, depth + 1)}" for key, value in content.items()]
        return "{\n" + ",\n".join(body) + "\n" + " " * depth + "}"
    return "[\n" + ",\n".join(pad + _lines(value, depth + 1) for value in content) + "\n" + " " * depth + "]"


def _read(folder: Path, name: str) -> Any:
    path = folder / f"{name}.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EvaluationError(f"{path}: cannot be read ({error}); `videoreasoner reproduce` writes it") from error
