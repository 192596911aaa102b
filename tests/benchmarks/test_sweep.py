from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

from videoreasoner.benchmarks.results import as_data
from videoreasoner.benchmarks.runner import BenchmarkRun
from videoreasoner.benchmarks.sweep import write_sweep
from videoreasoner.benchmarks.tasks.needle import Grid, cell_name
from videoreasoner.utils.intervals import Estimate

GRID = Grid((10.0, 60.0), (0.2, 1.0))


def run(folder: Path, mean: float) -> BenchmarkRun:
    of = {metric: Estimate(mean, 0.0, 1.0, 3) for metric in ("answer", "event_iou")}
    metrics = {"all": {"all": of}, "cell": {cell_name(*cell): of for cell in GRID.cells}}
    return BenchmarkRun(folder, [], {"questions": 9, "metrics": as_data(metrics)})


def test_a_sweep_is_written_as_json_picture_and_tables(tmp_path: Path) -> None:
    runs = {"direct": run(tmp_path / "direct", 0.25), "focus": run(tmp_path / "focus", 0.75)}
    tables = write_sweep(tmp_path, GRID, runs, "a/model")
    direct, focus, event = tables.split("\n\n")
    assert direct.splitlines() == [
        "| Right answers, direct | 10 s | 1 min |",
        "| --- | --- | --- |",
        "| 0.2 s | 25 | 25 |",
        "| 1 s |  | 25 |",
    ]
    assert "| 75 | 75 |" in focus
    assert event.startswith("| Event IoU, focus ")
    content = json.loads((tmp_path / "needle.json").read_text())
    assert (content["model"], content["lengths_s"], content["details_s"]) == ("a/model", [10, 60], [0.2, 1.0])
    assert [(panel["mode"], panel["metric"]) for panel in content["panels"]] == [
        ("direct", "answer"), ("focus", "answer"), ("focus", "event_iou"),
    ]  # fmt: skip
    means = [[value and value["mean"] for value in line] for line in content["panels"][0]["values"]]
    assert means == [[0.25, 0.25], [None, 0.25]]
    # Metrics are in the panels; what else a summary says is kept.
    assert content["runs"] == {"direct": {"questions": 9}, "focus": {"questions": 9}}
    with Image.open(tmp_path / "needle.png") as image:
        assert image.format == "PNG"
