"""What a needle sweep writes: `needle.json`, `needle.png` and a table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from videoreasoner.benchmarks.heat_map import Panel, write_heat_map
from videoreasoner.benchmarks.runner import BenchmarkRun
from videoreasoner.benchmarks.tasks.needle import Grid, sweep
from videoreasoner.utils.files import replacing
from videoreasoner.utils.intervals import Estimate

# (mode, metric, title); direct locates no event.
_PANELS = (
    ("direct", "answer", "Right answers, direct"),
    ("focus", "answer", "Right answers, focus"),
    ("focus", "event_iou", "Event IoU, focus"),
)


def write_sweep(folder: Path, grid: Grid, runs: Mapping[str, BenchmarkRun], model: str) -> str:
    """Write `needle.json` and `needle.png` into the folder.

    Args:
        folder: of the sweep.
        grid: what was swept over.
        runs: the needle run of each mode, "direct" and "focus".
        model: its name, for the title.

    Returns:
        The metrics as Markdown tables.
    """
    grids = {(mode, metric): sweep(runs[mode].metrics, grid, metric) for mode, metric, _ in _PANELS}
    lengths = [_clock(length) for length in grid.lengths_s]
    details = [f"{detail:g} s" for detail in grid.details_s]
    content = {
        "model": model,
        "lengths_s": grid.lengths_s,
        "details_s": grid.details_s,
        "panels": [
            {
                "mode": mode,
                "metric": metric,
                "values": [[e and asdict(e) for e in line] for line in grids[mode, metric]],
            }
            for mode, metric, _ in _PANELS
        ],
        "runs": {mode: {k: v for k, v in run.summary.items() if k != "metrics"} for mode, run in runs.items()},
    }
    with replacing(folder / "needle.json") as partial:
        partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    panels = [Panel(title, _means(grids[mode, metric])) for mode, metric, title in _PANELS]
    videos = max(e.count for line in grids["focus", "answer"] for e in line if e is not None)
    title = f"{Path(model).name}: a detail that shows briefly in a video; means over {videos} videos a cell, per cent"
    write_heat_map(folder / "needle.png", title, panels, lengths, details, ("length of the video", "shown for"))
    return "\n\n".join(_table(title, grids[mode, metric], lengths, details) for mode, metric, title in _PANELS)


def _means(grid: Sequence[Sequence[Estimate | None]]) -> list[list[float | None]]:
    return [[None if e is None else e.mean for e in line] for line in grid]


def _clock(seconds: float) -> str:
    return f"{seconds:g} s" if seconds < 60 else f"{seconds / 60:g} min"


def _table(
    title: str, grid: Sequence[Sequence[Estimate | None]], lengths: Sequence[str], details: Sequence[str]
) -> str:
    lines = [[title, *lengths], ["---"] * (1 + len(lengths))]
    for name, values in zip(details, grid, strict=True):
        lines.append([name, *("" if e is None else f"{100 * e.mean:.0f}" for e in values)])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
