"""The page of a reproduction, from its result files alone: the same files give the same bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

from experiments.reproduction.claims import TestResult, Verdict, evaluate_claims, judge
from experiments.reproduction.plots import is_measured, plot_curves, plot_scores
from experiments.reproduction.recipe import Mode, Split, Test
from experiments.reproduction.results import Results, read_results
from videoreasoner.errors import EvaluationError
from videoreasoner.utils.files import replacing

# What stands in place of a verdict where there are too few videos and steps for one.
_NO_VERDICT = "none"
_PLOTS = {"scores_plot": "scores.png", "curves_plot": "curves.png"}


class _Column(NamedTuple):
    """A column of the table: the mean of a metric on a split, in per cent or (no `is_share`) as an amount."""

    head: str
    metric: str
    split: Split = "all"
    has_interval: bool = False
    is_share: bool = True
    digits: int = 1


_COLUMNS = (
    _Column("plain", "answer", "plain", has_interval=True),
    _Column("detail", "answer", "detail", has_interval=True),
    _Column("plain, written", "answer_written", "plain"),
    _Column("detail, written", "answer_written", "detail"),
    _Column("event mIoU", "event_iou", has_interval=True),
    _Column("R@0.5", "event_r@0.5"),
    _Column("events parsed", "event_parsed"),
    _Column("answers parsed", "answer_parsed"),
    _Column("keyframes in event", "keyframes_in_event"),
    _Column("seconds", "seconds", is_share=False, digits=2),
    _Column("tokens", "tokens_out", is_share=False),
)
_AMOUNTS = {column.metric: column.digits for column in _COLUMNS if not column.is_share}
_METRIC_NAMES = {
    "answer": "accuracy", "answer_written": "accuracy of written answers", "answer_parsed": "share of parsed answers",
    "event_iou": "event IoU", "event_r@0.5": "event R@0.5", "event_parsed": "share of parsed events",
    "keyframes_in_event": "share of keyframes inside the event", "evidence_seen": "share of evidence seen",
    "seconds": "seconds per question", "tokens_out": "tokens written per question",
}  # fmt: skip


def write_page(results_dir: Path) -> str:
    """Write the plots into the folder of the result files, and the page to `results_dir` + .md.

    Returns:
        The verdicts, none for a smoke run, and the path of the page.

    Raises:
        EvaluationError: a result file is missing, or nothing can be written. MissingExtraError: no matplotlib.
    """
    results = read_results(results_dir)
    page = results_dir.with_name(f"{results_dir.name}.md")
    try:
        plot_scores(results, results_dir / _PLOTS["scores_plot"])
        plot_curves(results, results_dir / _PLOTS["curves_plot"])
        with replacing(page) as partial:
            partial.write_text(page_text(results, results_dir.name), encoding="utf-8")
    except OSError as error:
        raise EvaluationError(
            f"{page}: cannot be written ({error.strerror or error}); check space and rights"
        ) from error
    if results.recipe.smoke:
        return f"Everything ran. The videos and steps are too few for verdicts.\n{page}"
    claims = [f"{claim['name']}  {claim['verdict']:<4}  {claim['text']}" for claim in _claims(results)]
    return "\n".join([*claims, str(page)])


def page_text(results: Results, folder: str) -> str:
    """The page as Markdown; `folder` is the folder of the result files, relative to the page."""
    claims, jobs = _claims(results), results.made["jobs"]
    template = _TEMPLATES.get_template("page.md")
    return template.render(
        recipe=results.recipe,
        made=results.made,
        questions=results.questions,
        folder=folder,
        **{name: f"{folder}/{file}" for name, file in _PLOTS.items()},
        claims=claims,
        passed=sum(claim["verdict"] is Verdict.PASS for claim in claims),
        tests_passed=sum(test["verdict"] is Verdict.PASS for claim in claims for test in claim["tests"]),
        tests=sum(len(claim["tests"]) for claim in claims),
        heads=[column.head for column in _COLUMNS],
        lines=[
            [variant.title, mode, *(_cell(results, name, mode, column) for column in _COLUMNS)]
            for name, variant in results.recipe.variants.items()
            for mode in variant.modes
        ],
        trainings=[_training(name, results) for name in results.recipe.variants],
        minutes={name: _training(name, results)[6] for name in results.recipe.variants},
        core_minutes=_minutes(sum(job["cpu_seconds"] for job in jobs)),
        wall_minutes=_minutes(results.made["wall_seconds"]),
        machines=[f"{m['system']}, {m['cores']} cores, {m['gpu'] or 'no GPU'}" for m in results.made["machines"]],
        versions=[", ".join(f"{name} {number}" for name, number in v.items()) for v in results.made["versions"]],
        resumed=[job["name"] for job in jobs if job["starts"] > 1],
    )


def _claims(results: Results) -> list[dict[str, Any]]:
    claims = []
    for name, tests in evaluate_claims(results).items():
        verdict: str = judge([test.verdict for test in tests])
        shown = [_shown_test(test, results) for test in tests]
        if results.recipe.smoke:
            verdict, shown = _NO_VERDICT, [{**test, "verdict": _NO_VERDICT} for test in shown]
        claims.append({"name": name, "text": results.recipe.claims[name].text, "verdict": verdict, "tests": shown})
    return claims


def _cell(results: Results, variant: str, mode: Mode, column: _Column) -> str:
    values = results.values(variant, mode, column.metric, column.split)
    if values is None or not is_measured(mode, column.metric):
        return ""
    found, scale = results.estimate(values, column.split, column.is_share), 100 if column.is_share else 1
    text = f"{scale * found.mean:.{column.digits}f}"
    return f"{text} [{scale * found.low:.1f}, {scale * found.high:.1f}]" if column.has_interval else text


def _shown_test(result: TestResult, results: Results) -> dict[str, Any]:
    test, found = result.test, result.difference
    digits, scale, unit = (_AMOUNTS[test.metric], 1, "") if test.metric in _AMOUNTS else (1, 100, " points")
    interval = f"[{scale * found.low:+.{digits}f}, {scale * found.high:+.{digits}f}]"
    return {
        "what": _compared(test, results),
        "difference": f"{scale * found.mean:+.{digits}f} {interval}",
        "needed": f"above {-scale * test.margin + 0.0:g}{unit}",
        "seeds": ", ".join(f"{scale * seed:+.{digits}f}" for seed in result.seeds),
        "verdict": result.verdict,
    }


def _compared(test: Test, results: Results) -> str:
    variants = results.recipe.variants
    if test.over is None:
        other = f"{test.value:g}"
    elif test.over == test.variant:
        other = f"`{test.other_mode}`"
    else:
        other = variants[test.over].title + (f", `{test.other_mode}`" if test.other_mode != test.mode else "")
    split = "" if test.split == "all" else f", {test.split}"
    return f"{_METRIC_NAMES[test.metric]}{split}: {variants[test.variant].title}, `{test.mode}` - {other}"


def _training(name: str, results: Results) -> list[str]:
    """A line of the table of trainings; minutes are means over seeds."""
    variant, seeds = results.recipe.variants[name], results.recipe.seeds_of(name)
    labels = [name if seed is None else f"{name}-{seed}" for seed in seeds]
    seconds = {job["name"]: job["cpu_seconds"] for job in results.made["jobs"]}
    evaluation = sum(seconds[f"eval-{label}-{mode}"] for label in labels for mode in variant.modes) / len(labels)
    if variant.start is None:
        return [variant.title, *[""] * 6, _minutes(evaluation)]
    return [
        variant.title,
        results.recipe.variants[variant.start].title,
        str(variant.train),
        variant.rows.replace("_", " "),
        f"`{json.dumps(variant.changes)}`" if variant.changes else "",
        f"{max(curves['step'][-1] for curves in results.variants[name]['curves']):.0f}",
        _minutes(sum(seconds[f"train-{label}"] for label in labels) / len(labels)),
        _minutes(evaluation),
    ]


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f}"


_TEMPLATES = Environment(
    loader=PackageLoader("experiments.reproduction", ""),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
