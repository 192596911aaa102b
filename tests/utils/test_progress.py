from __future__ import annotations

import io

import pytest
from rich.console import Console

from videoreasoner.utils.progress import ProgressBar, StageBar, pace


@pytest.mark.parametrize(
    ("done", "left", "elapsed_s", "unit", "text"),
    [
        (20, 80, 10, "rows", "2.0 rows/s, 0:40 left"),
        (1, 1000, 10, "rows", "10.0 s per row, 2:46:40 left"),
        (1, 1, 2, "videos", "2.0 s per video, 0:02 left"),
        (100, 0, 10, "rows", "10.0 rows/s, 0:00 left"),
        (0, 60, 10, "rows", ""),
        (1, 99, 0, "rows", ""),
    ],
)
def test_pace(done: int, left: int, elapsed_s: float, unit: str, text: str) -> None:
    assert pace(done, left, elapsed_s, unit) == text


class Watch:
    """A clock that is moved by hand."""

    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def _lines(total: int, resumed: int, seconds_a_row: float, units_per_step: int = 1) -> list[str]:
    log, watch = io.StringIO(), Watch()
    with ProgressBar("answering", "rows", units_per_step, Console(file=log, width=40), watch) as progress:
        for done in range(resumed, total + 1):
            progress(done, total)
            watch.now_s += seconds_a_row
    return log.getvalue().splitlines()


def test_a_log_gets_a_line_at_each_tenth() -> None:
    lines = _lines(1000, 0, 0.1)
    assert len(lines) == 10
    assert lines[0] == "answering: 100 of 1000 (10 %), 10.0 rows/s, 1:30 left"
    assert lines[-1] == "answering: 1000 of 1000 (100 %), 10.0 rows/s, 0:00 left"


def test_a_log_gets_a_line_every_half_minute_of_a_slow_run() -> None:
    lines = _lines(1000, 0, 10.0)
    # 333 half minutes; a line at a tenth restarts the half minute.
    assert 330 < len(lines) <= 343
    assert lines[0].startswith("answering: 3 of 1000 (0 %), 10.0 s per row, ")


def test_a_log_gets_at_most_one_line_a_second_and_the_last_one() -> None:
    assert [line.split(",")[0] for line in _lines(10, 0, 0.01)] == ["answering: 10 of 10 (100 %)"]


def test_a_log_counts_only_what_this_run_did() -> None:
    assert _lines(100, 100, 1.0) == []
    lines = _lines(100, 50, 0.5)
    assert len(lines) == 5
    assert lines[0] == "answering: 60 of 100 (60 %), 2.0 rows/s, 0:20 left"


def test_nothing_to_do_is_no_failure() -> None:
    assert _lines(0, 0, 1.0) == []


def test_the_speed_counts_units() -> None:
    assert _lines(2, 0, 2.0, units_per_step=8)[-1] == "answering: 2 of 2 (100 %), 4.0 rows/s, 0:00 left"


def test_a_terminal_gets_a_bar_with_status_speed_and_time_left() -> None:
    screen, watch = io.StringIO(), Watch()
    console = Console(file=screen, force_terminal=True, width=120, color_system=None)
    with ProgressBar("answering", console=console, clock=watch) as progress:
        progress(0, 4)
        watch.now_s += 2
        progress(1, 4, "loss 1.000")
    assert "1/4" in screen.getvalue()
    assert "loss 1.000, 2.0 s per row, 0:06 left" in screen.getvalue()
    assert "answering: " not in screen.getvalue()


def test_the_stages_of_a_task_get_a_line_now_and_then_in_a_log() -> None:
    log, watch = io.StringIO(), Watch()
    with StageBar(Console(file=log, force_terminal=False), watch) as bar:
        for done in range(13):
            bar("search", done, 12)
            watch.now_s += 6
        bar("locate", 0, 1)
        watch.now_s += 18
        bar("answer", 0, 1)
    assert log.getvalue().splitlines() == ["search: 5 of 12", "search: 10 of 12", "answer"]


def test_the_stages_of_a_task_are_a_bar_on_a_terminal() -> None:
    screen = io.StringIO()
    with StageBar(Console(file=screen, force_terminal=True, width=120, color_system=None)) as bar:
        bar("search", 3, 12)
    assert "search" in screen.getvalue()
    assert "3/12" in screen.getvalue()
