"""metrics.jsonl: one line a logged step, rounded, and a line at each checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

from videoreasoner.training.runtime.folder import RunFolder
from videoreasoner.training.runtime.metrics_file import MetricsFile, peak_memory_gb


def log(file: MetricsFile, is_main: bool = True, **logs: float) -> None:
    file.on_log(None, SimpleNamespace(is_world_process_zero=is_main, global_step=3), None, logs=logs)


def lines(folder: Path) -> list[dict[str, float]]:
    path = folder / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_values_are_rounded_and_small_learning_rates_are_not(tmp_path: Path) -> None:
    log(MetricsFile(RunFolder(tmp_path)), loss=0.123456789, learning_rate=2.5e-9)
    assert lines(tmp_path) == [{"step": 3, "loss": 0.123457, "learning_rate": 2.5e-9}]


def test_one_process_writes_and_the_means_of_the_whole_run_are_no_step(tmp_path: Path) -> None:
    file = MetricsFile(RunFolder(tmp_path))
    log(file, is_main=False, loss=1.0)
    log(file, train_runtime=12.0, loss=1.0)
    assert lines(tmp_path) == []


def test_a_checkpoint_ends_a_line(tmp_path: Path) -> None:
    control = SimpleNamespace(should_save=True, should_log=False)
    MetricsFile(RunFolder(tmp_path)).on_step_end(None, None, control)
    assert control.should_log
    control = SimpleNamespace(should_save=False, should_log=False)
    MetricsFile(RunFolder(tmp_path)).on_step_end(None, None, control)
    assert not control.should_log


def test_the_peak_is_that_of_this_process() -> None:
    before = peak_memory_gb()
    block = bytearray(200_000_000)
    block[::4096] = b"x" * len(block[::4096])
    assert 0.01 < before <= peak_memory_gb() < 100
