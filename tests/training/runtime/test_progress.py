"""What the bar and the log say about training."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from videoreasoner.training.runtime.progress import TrainingProgress, training_status


@pytest.mark.parametrize(
    ("metrics", "expected"),
    [
        ({}, ""),
        ({"loss": 0.8124, "parse_rate": 0.975}, "loss 0.812, parsed 98 %"),
        ({"loss": 1.0, "rows_skipped": 3}, "loss 1.000, 3 rows skipped"),
        ({"reward": 1.25, "rows_skipped": 0}, "reward 1.250"),
        ({"loss": 0.0, "reward": 1.25, "kl": 0.012, "step_s": 3.14}, "reward 1.250, kl 0.0120, 3.1 s a step"),
        ({"loss": 0.5, "step_s": 3.14}, "loss 0.500"),
    ],
)
def test_training_status(metrics: dict[str, float], expected: str) -> None:
    assert training_status(metrics) == expected


def _log(is_main_process: bool) -> list[str]:
    now = [0.0]
    out = io.StringIO()
    run = SimpleNamespace(sources=[range(5), range(3)], step_rows=4)
    progress = TrainingProgress(run, Console(file=out), clock=lambda: now[0])
    state = SimpleNamespace(is_world_process_zero=is_main_process, global_step=10, max_steps=20)
    progress.on_train_begin(None, state, None)
    for step in range(11, 21):
        now[0] += 20.0
        state.global_step = step
        progress.on_log(None, state, None, logs={"loss": float(step)})
        progress.on_log(None, state, None, logs={"parse_rate": 0.5})
    progress.close()
    return out.getvalue().splitlines()


def test_a_log_gets_a_line_now_and_then_about_what_this_start_did() -> None:
    assert _log(is_main_process=True) == [
        "training continues at step 10: 8 rows, 20 steps",
        "training: 12 of 20 (60 %), loss 12.000, parsed 50 %, 5.0 s per row, 2:40 left",
        "training: 14 of 20 (70 %), loss 14.000, parsed 50 %, 5.0 s per row, 2:00 left",
        "training: 16 of 20 (80 %), loss 16.000, parsed 50 %, 5.0 s per row, 1:20 left",
        "training: 18 of 20 (90 %), loss 18.000, parsed 50 %, 5.0 s per row, 0:40 left",
        "training: 20 of 20 (100 %), loss 20.000, parsed 50 %, 5.0 s per row, 0:00 left",
    ]


def test_one_process_alone_writes() -> None:
    assert _log(is_main_process=False) == []


def test_the_time_of_a_step_is_that_since_the_last_line() -> None:
    now, out = [0.0], io.StringIO()
    run = SimpleNamespace(sources=[range(4)], step_rows=4)
    progress = TrainingProgress(run, Console(file=out), clock=lambda: now[0])
    state = SimpleNamespace(is_world_process_zero=True, global_step=0, max_steps=4)
    progress.on_train_begin(None, state, None)
    for step, now_s in ((2, 5.0), (4, 25.0)):
        state.global_step, now[0] = step, now_s
        progress.on_log(None, state, None, logs={"loss": 0.0, "reward": 0.5, "kl": 0.25})
    progress.close()
    lines = out.getvalue().splitlines()[1:]
    assert [line.split("%), ")[1].split(" a step")[0] for line in lines] == [
        "reward 0.500, kl 0.2500, 2.5 s",
        "reward 0.500, kl 0.2500, 10.0 s",
    ]


def test_a_finished_run_says_so() -> None:
    out = io.StringIO()
    progress = TrainingProgress(SimpleNamespace(sources=[range(4)], step_rows=4), Console(file=out))
    progress.on_train_begin(None, SimpleNamespace(is_world_process_zero=True, global_step=10, max_steps=10), None)
    progress.close()
    assert out.getvalue() == "this run is finished: step 10 of 10; raise max_steps or num_train_epochs to go on\n"
