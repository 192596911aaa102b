"""The page of a reproduction, from its result files alone: the same files give the same bytes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from experiments.reproduction.claims import Finding, Verdict, examine_all, judge
from experiments.reproduction.plots import is_measured, plot_curves, plot_scores
from experiments.reproduction.recipe import Mode, Split, Test
from experiments.reproduction.results import Results, read_results
from videoreasoner.errors import EvaluationError
from videoreasoner.utils.files import replacing
from videoreasoner.utils.intervals import Estimate

_SCORES_PLOT, _CURVES_PLOT = "scores.png", "curves.png"


@dataclass(frozen=True)
class _Column:
    """A column of the table: a metric of a split, as a share in per cent or as an amount."""

    head: str
    metric: str
    split: Split = "all"
    digits: int = 1
    is_share: bool = True
    with_interval: bool = False


_COLUMNS = (
    _Column("plain", "answer", "plain", with_interval=True),
    _Column("detail", "answer", "detail", with_interval=True),
    _Column("plain, written", "answer_written", "plain"),
    _Column("detail, written", "answer_written", "detail"),
    _Column("event mIoU", "event_iou", with_interval=True),
    _Column("R@0.5", "event_r@0.5"),
    _Column("event read", "event_parsed"),
    _Column("answer read", "answer_parsed"),
    _Column("keyframes in event", "keyframes_in_event"),
    _Column("seconds", "seconds", digits=2, is_share=False),
    _Column("tokens", "tokens_out", is_share=False),
)
_AMOUNTS = {column.metric: column.digits for column in _COLUMNS if not column.is_share}
_NAMES = {
    "answer": "right answers", "answer_written": "right written answers", "answer_parsed": "answers that can be read",
    "event_iou": "event IoU", "event_r@0.5": "event R@0.5", "event_parsed": "events that can be read",
    "keyframes_in_event": "keyframes inside the event", "evidence_seen": "evidence seen",
    "seconds": "seconds a question", "tokens_out": "tokens written",
}  # fmt: skip


def write_page(folder: Path) -> str:
    """Write the plots into the folder of the result files, and the page beside it, with `.md` behind its name.

    Returns:
        The verdicts, and where the page is.

    Raises:
        EvaluationError: a result file is missing, or nothing can be written. MissingExtraError: no matplotlib.
    """
    results = read_results(folder)
    claims = examine_all(results)
    page = folder.with_name(f"{folder.name}.md")
    try:
        plot_scores(results, folder / _SCORES_PLOT)
        plot_curves(results, folder / _CURVES_PLOT)
        with replacing(page) as partial:
            partial.write_text(page_text(results, folder.name), encoding="utf-8")
    except OSError as error:
        reason = error.strerror or error
        raise EvaluationError(f"{page}: cannot be written ({reason}); check its room and rights") from error
    verdicts = [f"{name}  {judge(findings):<4}  {claim.text}" for name, (claim, findings) in claims.items()]
    return "\n".join([*verdicts, str(page)])


def page_text(results: Results, folder: str) -> str:
    """The page as Markdown; `folder` is where it finds its plots."""
    claims = []
    for name, (claim, findings) in examine_all(results).items():
        shown = [_finding(finding, results) for finding in findings]
        claims.append({"name": name, "text": claim.text, "verdict": judge(findings), "findings": shown})
    jobs = results.made["jobs"]
    return _TEMPLATES.get_template("page.md").render(
        recipe=results.recipe,
        made=results.made,
        machines=[f"{m['system']}, {m['cores']} cores, {m['gpu'] or 'no GPU'}" for m in results.made["machines"]],
        versions=[", ".join(f"{name} {number}" for name, number in v.items()) for v in results.made["versions"]],
        wall=_minutes(results.made["wall_seconds"]),
        core=_minutes(sum(job["cpu_seconds"] for job in jobs)),
        resumed=[job["name"] for job in jobs if job["starts"] > 1],
        videos=len(set(results.questions["videos"])),
        questions=len(results.questions["ids"]),
        data_hash=results.questions["data_hash"],
        claims=claims,
        passed=sum(claim["verdict"] is Verdict.PASS for claim in claims),
        heads=[column.head for column in _COLUMNS],
        lines=_table(results),
        video_sets=[_videos(name, results) for name in ("cold_start", "queries", "evaluation")],
        arms=[_arm(name, results) for name in results.recipe.arms],
        scores_plot=f"{folder}/{_SCORES_PLOT}",
        curves_plot=f"{folder}/{_CURVES_PLOT}",
        folder=folder,
    )


def _table(results: Results) -> list[list[str]]:
    lines = []
    for name, arm in results.recipe.arms.items():
        for mode in arm.modes:
            lines.append([arm.title, mode, *(_cell(results, name, mode, column) for column in _COLUMNS)])
    return lines


def _cell(results: Results, arm: str, mode: Mode, column: _Column) -> str:
    values = results.values(arm, mode, column.metric, column.split)
    if values is None or not is_measured(mode, column.metric):
        return ""
    found = results.estimate(values, column.split)
    scale = 100 if column.is_share else 1
    text = f"{scale * found.mean:.{column.digits}f}"
    return f"{text} [{scale * found.low:.1f}, {scale * found.high:.1f}]" if column.with_interval else text


def _finding(finding: Finding, results: Results) -> dict[str, Any]:
    test = finding.test
    digits, scale = (_AMOUNTS[test.metric], 1) if test.metric in _AMOUNTS else (1, 100)
    unit = "" if test.metric in _AMOUNTS else " points"
    found: Estimate = finding.difference
    interval = f"[{scale * found.low:+.{digits}f}, {scale * found.high:+.{digits}f}]"
    return {
        "what": _what(test, results),
        "difference": f"{scale * found.mean:+.{digits}f} {interval}",
        "needed": f"above {-scale * test.margin + 0.0:g}{unit}",
        "seeds": ", ".join(f"{scale * seed:+.{digits}f}" for seed in finding.seeds),
        "verdict": finding.verdict,
    }


def _what(test: Test, results: Results) -> str:
    arms = results.recipe.arms
    where = "" if test.split == "all" else f", {test.split}"
    if test.over is None:
        other = f"{test.value:g}"
    elif test.over == test.arm:
        other = f"`{test.other_mode}`"
    else:
        other = arms[test.over].title + (f", `{test.other_mode}`" if test.other_mode != test.mode else "")
    return f"{_NAMES[test.metric]}{where}: {arms[test.arm].title}, `{test.mode}` - {other}"


def _arm(name: str, results: Results) -> dict[str, Any]:
    """What an arm is, and what it took, a seed."""
    arm = results.recipe.arms[name]
    of_arm = [name] if arm.train is None else [f"{name}-{seed}" for seed in results.recipe.seeds]
    seconds = {job["name"]: job["cpu_seconds"] for job in results.made["jobs"]}
    training = sum(seconds.get(f"train-{label}", 0.0) for label in of_arm) / len(of_arm)
    evaluation = sum(seconds[f"eval-{label}-{mode}"] for label in of_arm for mode in arm.modes) / len(of_arm)
    steps = [curves.step[-1] for curves in results.arms[name].curves]
    return {
        "name": name,
        "title": arm.title,
        "start": "" if arm.start is None else results.recipe.arms[arm.start].title,
        "train": arm.train or "",
        "rows": "" if arm.train is None else arm.rows.replace("_", " "),
        "changes": json.dumps(arm.changes) if arm.changes else "",
        "steps": f"{max(steps):.0f}" if steps else "",
        "training": _minutes(training) if arm.train else "",
        "evaluation": _minutes(evaluation),
    }


def _videos(name: str, results: Results) -> list[str]:
    """A line of the table of videos."""
    videos, shift = getattr(results.recipe.videos, name), [] if name == "evaluation" else results.recipe.seeds
    seeds = [str(videos.seed + seed) for seed in shift] or [str(videos.seed)]
    low, high = (f"{100 * share:g}" for share in videos.event_share)
    events = " to ".join(map(str, dict.fromkeys(videos.events)))
    splits = ", ".join(videos.splits)
    title = name.replace("_", " ")
    return [title, f"{videos.videos:,}", f"{videos.rows:,}", splits, events, f"{low} to {high} %", ", ".join(seeds)]


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f}"


_TEMPLATES = Environment(
    loader=PackageLoader("experiments.reproduction", ""),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
