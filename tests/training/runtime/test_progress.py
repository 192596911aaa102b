"""What the bar and the log say."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from videoreasoner.training.runtime.progress import ProgressBar, status


@pytest.mark.parametrize(
    ("figures", "rate", "left", "expected"),
    [
        ({}, 0.0, 0.0, ""),
        ({"loss": 0.8124, "parse_rate": 0.975}, 1.42, 759.6, "loss 0.812, reads 98 %, 1.42 rows/s, 0:12:40 left"),
        ({"loss": 1.0, "rows_skipped": 3}, 20.0, 7325.0, "loss 1.000, 3 rows skipped, 20 rows/s, 2:02:05 left"),
        ({"reward": 1.25}, 0.0, 0.0, "reward 1.250"),
    ],
)
def test_status(figures: dict[str, float], rate: float, left: float, expected: str) -> None:
    assert status(figures, rate, left) == expected


def test_a_log_gets_a_line_now_and_then_of_what_this_start_did() -> None:
    now = [0.0]
    out = io.StringIO()
    bar = ProgressBar(
        SimpleNamespace(sources=[range(5), range(3)], step_rows=4), Console(file=out), clock=lambda: now[0]
    )
    args = SimpleNamespace(train_batch_size=2, gradient_accumulation_steps=2, world_size=1)
    state = SimpleNamespace(is_world_process_zero=True, global_step=10, max_steps=20)
    bar.on_train_begin(args, state, None)
    for step in range(11, 21):
        now[0] += 8.0
        state.global_step = step
        bar.on_log(args, state, None, logs={"loss": float(step)})
    bar.close()
    assert out.getvalue().splitlines() == [
        "training goes on at step 10: 8 rows, 20 steps",
        "step 14 of 20: loss 14.000, 0.5 rows/s, 0:00:48 left",
        "step 18 of 20: loss 18.000, 0.5 rows/s, 0:00:16 left",
        "step 20 of 20: loss 20.000, 0.5 rows/s, 0:00:00 left",
    ]
