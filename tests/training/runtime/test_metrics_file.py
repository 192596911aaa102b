"""`metrics.jsonl`: which logs become lines, and what is written of them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from transformers import TrainerControl

from videoreasoner.training.runtime.metrics_file import MetricsFile, peak_memory_gb


class Lines:
    def __init__(self) -> None:
        self.written: list[tuple[str, dict[str, Any]]] = []

    def append(self, name: str, line: dict[str, Any]) -> None:
        self.written.append((name, line))


def written(logs: dict[str, Any], is_first: bool = True) -> list[tuple[str, dict[str, Any]]]:
    lines: Any = Lines()
    state = SimpleNamespace(is_world_process_zero=is_first, global_step=7)
    MetricsFile(lines).on_log(None, state, None, logs)
    found: list[tuple[str, dict[str, Any]]] = lines.written
    return found


def test_a_line_has_its_step_and_rounded_metrics_but_a_whole_learning_rate() -> None:
    logs = {"loss": 0.12345678, "rows": 3, "learning_rate": 2.4e-9}
    assert written(logs) == [("metrics.jsonl", {"step": 7, "loss": 0.123457, "rows": 3, "learning_rate": 2.4e-9})]


def test_the_summary_of_the_run_and_other_processes_write_nothing() -> None:
    assert written({"train_runtime": 3.0, "loss": 1.0}) == []
    assert written({"loss": 1.0}, is_first=False) == []


def test_a_checkpoint_ends_a_line() -> None:
    control = TrainerControl(should_save=True)
    lines: Any = Lines()
    MetricsFile(lines).on_step_end(None, None, control)
    assert control.should_log
    control = TrainerControl(should_save=False)
    MetricsFile(lines).on_step_end(None, None, control)
    assert not control.should_log


def test_peak_memory_is_that_of_this_process() -> None:
    assert 0.05 < peak_memory_gb() < 500
