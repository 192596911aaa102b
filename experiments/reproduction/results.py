"""The result files: small enough to commit, and everything that the page needs.

recipe.json             what was run, and the claims
questions.json          ids, videos and splits of the questions, and the hash of the benchmark
variants/<name>.json    evaluations: for each seed and mode, one column per metric with a value per question;
                        curves: for each seed, what training logged
made.json               date, times, machines, versions, and the format of the videos
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from experiments.reproduction.jobs import Command
from experiments.reproduction.recipe import Metric, Mode, Reproduction, Split
from videoreasoner.benchmarks.results import scores
from videoreasoner.benchmarks.runner import BenchmarkRun, load_run
from videoreasoner.errors import EvaluationError
from videoreasoner.synthetic.videos import FORMAT
from videoreasoner.utils.files import replacing
from videoreasoner.utils.intervals import Estimate, estimate

METRICS: tuple[str, ...] = get_args(Metric)
_CURVES = ("loss", "reward", "kl", "parse_rate")
_POINTS = 100


@dataclass(frozen=True)
class Results:
    """The content of all result files; `variants` maps a name to the content of its file."""

    recipe: Reproduction
    questions: dict[str, Any]
    variants: dict[str, dict[str, Any]]
    made: dict[str, Any]

    def values(self, variant: str, mode: Mode, metric: str, split: Split = "all") -> NDArray[np.float64] | None:
        """float64[seeds, questions] of a split, one line if the variant has no seeds; None without the metric."""
        found = [e["columns"].get(metric) for e in self.variants[variant]["evaluations"] if e["mode"] == mode]
        if not found or None in found:
            return None
        return np.asarray(found, dtype=np.float64)[:, self._in_split(split)]

    def estimate(self, values: NDArray[np.float64], split: Split, is_share: bool = False) -> Estimate:
        """Mean and 95 % interval of float64[seeds, questions], over videos and over seeds."""
        videos = np.array(self.questions["videos"])[self._in_split(split)]
        return estimate(values, videos.tolist(), is_share)

    def _in_split(self, split: Split) -> NDArray[np.bool_]:
        return np.array([split in ("all", found) for found in self.questions["splits"]])


def collect(recipe: Reproduction, commands: Mapping[str, Command], results_dir: Path) -> None:
    """Write the result files.

    Args:
        recipe: what was run.
        commands: its commands, which have all ended.
        results_dir: where the result files go.

    Raises:
        EvaluationError: an evaluation is missing, has other questions than the first one, or failed on some, or the
            results cannot be written.
    """
    runs = {name: load_run(command.folder) for name, command in commands.items() if name.startswith("eval-")}
    first = next(iter(runs.values()))
    data_hash = first.summary["hashes"]["data_hash"]
    for run in runs.values():
        if run.summary["hashes"]["data_hash"] != data_hash or run.failed:
            raise EvaluationError(
                f"{run.folder}: not all questions of {first.folder} were answered; remove it, run again"
            )
    files: dict[str, Any] = {
        "recipe": recipe.model_dump(mode="json"),
        "questions": {
            "data_hash": data_hash,
            "ids": [item["id"] for item in first.results],
            "videos": [item["video"] for item in first.results],
            "splits": [item["groups"]["split"] for item in first.results],
        },
    }
    for name, variant in recipe.variants.items():
        evaluations, curves = [], []
        for seed in recipe.seeds_of(name):
            label = name if seed is None else f"{name}-{seed}"
            for mode in variant.modes:
                evaluations.append({"seed": seed, "mode": mode, **_evaluation(runs[f"eval-{label}-{mode}"])})
            if seed is not None:
                curves.append({"seed": seed, **_curves(commands[f"train-{label}"].folder / "metrics.jsonl")})
        files[f"variants/{name}"] = {"evaluations": evaluations, "curves": curves}
    stamps = {name: command.read_stamp() or {} for name, command in commands.items()}
    files["made"] = _made(stamps, [run.summary for run in runs.values()])
    try:
        (results_dir / "variants").mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            with replacing(results_dir / f"{name}.json") as partial:
                partial.write_text(dump(content), encoding="utf-8")
    except OSError as error:
        reason = f"cannot be written ({error.strerror or error})"
        raise EvaluationError(f"{results_dir}: {reason}; give another folder: --set results_dir=FOLDER") from error


def read_results(results_dir: Path) -> Results:
    """The result files that `collect` wrote.

    Raises:
        EvaluationError: one is missing or damaged.
    """

    def read(name: str) -> Any:
        path = results_dir / f"{name}.json"
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise EvaluationError(f"{path}: cannot be read ({error}); `make reproduce` writes it") from error

    recipe = Reproduction.model_validate(read("recipe"))
    variants = {name: read(f"variants/{name}") for name in recipe.variants}
    return Results(recipe, read("questions"), variants, read("made"))


def thin_out(lines: Sequence[Mapping[str, Any]], points: int = _POINTS) -> dict[str, Any]:
    """The curves of `metrics.jsonl` with at most `points` points.

    Returns:
        step: the last step of each point; values: name -> the mean over the point's lines that have it, or None.
    """
    names = [name for name in dict.fromkeys(name for line in lines for name in line) if name.split("/")[0] in _CURVES]
    parts = [part for part in np.array_split(np.arange(len(lines)), min(points, len(lines)) or 1) if len(part)]
    values = {name: [_mean([lines[i].get(name) for i in part]) for part in parts] for name in names}
    return {"step": [float(lines[part[-1]]["step"]) for part in parts], "values": values}


def union_length(intervals: Iterable[tuple[float, float]]) -> float:
    """The length of the union of intervals."""
    total, until = 0.0, float("-inf")
    for start, end in sorted(intervals):
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total


def dump(content: Any) -> str:
    """Indented JSON with each innermost list or object on one line."""
    text = json.dumps(content, indent=1)
    return re.sub(r"[\[{]\n[^][{}]*[\]}]", lambda found: re.sub(r"\n *", "", found[0]), text) + "\n"


def _evaluation(run: BenchmarkRun) -> dict[str, Any]:
    found = [scores(item) for item in run.results]
    shared = [metric for metric in METRICS if all(metric in item for item in found)]
    columns = {metric: [_rounded(item[metric]) for item in found] for metric in shared}
    return {"model_hash": run.summary["hashes"]["model_hash"], "columns": columns}


def _curves(path: Path) -> dict[str, Any]:
    try:
        return thin_out([json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()])
    except (OSError, ValueError) as error:
        raise EvaluationError(f"{path}: cannot be read ({error}); remove its folder and run again") from error


def _made(stamps: Mapping[str, Mapping[str, Any]], summaries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    machines = [{key: s["machine"][key] for key in ("system", "cores", "gpu")} for s in summaries]
    versions = [s["versions"] for s in summaries]
    return {
        "date": datetime.fromtimestamp(max(stamp["ended"] for stamp in stamps.values()), UTC).date().isoformat(),
        "wall_seconds": round(union_length((stamp["began"], stamp["ended"]) for stamp in stamps.values())),
        "video_format": FORMAT,
        "machines": [machine for n, machine in enumerate(machines) if machine not in machines[:n]],
        "versions": [version for n, version in enumerate(versions) if version not in versions[:n]],
        "jobs": [
            {
                "name": name,
                "seconds": round(stamp["ended"] - stamp["began"], 1),
                "cpu_seconds": round(stamp["cpu_seconds"], 1),
                "starts": stamp["starts"],
            }
            for name, stamp in stamps.items()
        ],
    }


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return _rounded(sum(known) / len(known)) if known else None


def _rounded(value: float) -> float:
    """Four digits; whole numbers become integers, which halves the files."""
    short = round(value, 4)
    return int(short) if short == int(short) else short
