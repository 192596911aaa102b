"""Plots of a reproduction. The result files and the version of matplotlib determine the bytes of the PNG files."""

from __future__ import annotations

import importlib.util
import io
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from experiments.reproduction.recipe import Kind, Mode, Split
from experiments.reproduction.results import Results
from videoreasoner.errors import MissingExtraError
from videoreasoner.utils.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# The colours of Okabe and Ito, which colour-blind people can tell apart. Each line has its own mark, too.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7F7F7F")
_MARKS = ("o", "s", "^", "D", "v", "P", "X", "<")
_MODES: dict[Mode, tuple[str, str, float]] = {
    "direct": ("#E69F00", "s", -0.17), "focus": ("#0072B2", "o", 0.17), "think": ("#CC79A7", "D", 0.0),
}  # fmt: skip
_SCORES: tuple[tuple[str, str, Split], ...] = (
    ("answer", "plain: accuracy of the best option, %", "plain"),
    ("answer", "detail: accuracy of the best option, %", "detail"),
    ("event_iou", "event: mean IoU, %", "all"),
    ("answer_written", "plain: accuracy of the written answer, %", "plain"),
    ("answer_written", "detail: accuracy of the written answer, %", "detail"),
)
_CURVES: tuple[tuple[Kind, str, str], ...] = (
    ("grpo", "reward/event_iou", "GRPO: reward for event IoU"),
    ("grpo", "reward/accuracy", "GRPO: reward for accuracy"),
    ("grpo", "kl", "GRPO: KL divergence from the reference"),
    ("grpo", "parse_rate", "GRPO: share of rollouts that can be parsed"),
    ("cold-start", "loss", "supervised: negative log-likelihood per token"),
    ("cold-start", "parse_rate", "supervised: share of outputs that can be parsed"),
)
_DPI = 90
# Colours in the file: enough for every line to keep its colour, and half the size.
_PALETTE = 256


def need_matplotlib() -> None:
    """Raises MissingExtraError where matplotlib is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingExtraError("plots need matplotlib: pip install 'videoreasoner[plots]'")


def is_measured(mode: Mode, metric: str) -> bool:
    """Whether a mode has the metric. Mode think scores no options: its `answer` equals `answer_written`."""
    return not (mode == "think" and metric == "answer")


def plot_scores(results: Results, path: Path) -> None:
    """Accuracy and event IoU of every variant and mode, with 95 % intervals."""
    figure, [*axes, for_legend] = _figure(2, 3, (12, 2 * (1.0 + 0.36 * len(results.variants))))
    names = list(results.variants)
    for place, (axis, (metric, title, split)) in enumerate(zip(axes, _SCORES, strict=True)):
        for mode, (colour, mark, shift) in _MODES.items():
            found = [(row, results.values(name, mode, metric, split)) for row, name in enumerate(names)]
            rows = [
                (row, results.estimate(values, split, is_share=True)) for row, values in found if values is not None
            ]
            if not rows or not is_measured(mode, metric):
                continue
            means = 100 * np.array([e.mean for _, e in rows])
            lengths = 100 * np.array([[e.mean - e.low for _, e in rows], [e.high - e.mean for _, e in rows]])
            at = [row + shift for row, _ in rows]
            # Rounding can put the mean of shares slightly outside its interval.
            axis.errorbar(means, at, xerr=lengths.clip(0), fmt=mark, color=colour, capsize=3, label=mode)
        axis.set_title(title, fontsize=11)
        axis.set_yticks(range(len(names)), [textwrap.fill(results.recipe.variants[name].title, 24) for name in names])
        axis.set_ylim(len(names) - 0.5, -0.5)
        axis.set_xlim(-3, 103)
        axis.tick_params(labelleft=place % 3 == 0)
        axis.grid(axis="x", alpha=0.3)
    for_legend.axis("off")
    for_legend.legend(*axes[-1].get_legend_handles_labels(), loc="center")
    _save(figure, path)


def plot_curves(results: Results, path: Path) -> None:
    """Rewards, KL divergence, loss and parse rate over the steps: the mean and the range over seeds."""
    figure, axes = _figure(3, 2, (11, 10))
    trained = {name: variant for name, variant in results.recipe.variants.items() if variant.train is not None}
    handles: dict[str, Any] = {}
    for axis, (kind, key, title) in zip(axes, _CURVES, strict=True):
        for number, name in enumerate(trained):
            curves = [c for c in results.variants[name]["curves"] if key in c["values"]]
            if curves and trained[name].train == kind:
                colour, mark = _COLOURS[number % len(_COLOURS)], _MARKS[number % len(_MARKS)]
                handles[name] = _draw(
                    axis, [c["step"] for c in curves], [c["values"][key] for c in curves], colour, mark
                )
        axis.set_title(title, fontsize=11)
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
    names = [name for name in trained if name in handles]
    titles = [trained[name].title for name in names]
    figure.legend([handles[name] for name in names], titles, loc="outside lower center", ncols=3)
    _save(figure, path)


def _draw(axis: Axes, steps: Sequence[Any], values: Sequence[Any], colour: str, mark: str) -> Any:
    shown = [~np.isnan(np.array(line, dtype=float)) for line in values]
    kept = np.logical_and.reduce(shown)
    lines = np.array(values, dtype=float)[:, kept]
    at = np.array(steps[0], dtype=float)[kept]
    if len(lines) > 1:
        axis.fill_between(at, lines.min(axis=0), lines.max(axis=0), color=colour, alpha=0.15, linewidth=0)
    every = max(1, len(at) // 8)
    [line] = axis.plot(at, lines.mean(axis=0), color=colour, marker=mark, markevery=every, markersize=5, linewidth=1.4)
    return line


def _figure(lines: int, columns: int, size: tuple[float, float]) -> tuple[Figure, list[Axes]]:
    need_matplotlib()
    # Without pyplot, which keeps every figure in memory and looks for a display.
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=_DPI, layout="constrained")
    return figure, list(np.ravel(figure.subplots(lines, columns)))


def _save(figure: Figure, path: Path) -> None:
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", metadata={"Software": None})
    with replacing(path) as partial, Image.open(drawn) as image:
        image.convert("RGB").quantize(_PALETTE, dither=Image.Dither.NONE).save(partial, "PNG", optimize=True)
