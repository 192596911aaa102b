from __future__ import annotations

import io

import pytest
from rich.console import Console

from videoreasoner.cli.progress import RowProgress, pace


@pytest.mark.parametrize(
    ("done", "total", "resumed", "elapsed_s", "text"),
    [
        (20, 100, 0, 10, "2.0 rows/s, 0:40 left"),
        (60, 100, 40, 10, "2.0 rows/s, 0:20 left"),
        (1, 1001, 0, 10, "10.0 s a row, 2:46:40 left"),
        (100, 100, 0, 10, "10.0 rows/s, 0:00 left"),
        (40, 100, 40, 10, ""),
        (1, 100, 0, 0, ""),
    ],
)
def test_pace_is_that_of_this_run(done: int, total: int, resumed: int, elapsed_s: float, text: str) -> None:
    assert pace(done, total, resumed, elapsed_s) == text


class Watch:
    """A clock that is moved by hand."""

    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def _lines(total: int, resumed: int, seconds_a_row: float) -> list[str]:
    log, watch = io.StringIO(), Watch()
    with RowProgress(Console(file=log, width=40), watch) as progress:
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
    # 333 half minutes; a tenth is said when it is reached, and the half minute begins anew there.
    assert 330 < len(lines) <= 343
    assert lines[0].startswith("answering: 3 of 1000 (0 %), 10.0 s a row, ")


def test_a_log_says_nothing_of_rows_that_were_there() -> None:
    assert _lines(100, 100, 1.0) == []
    assert len(_lines(100, 50, 0.1)) == 5


def test_a_terminal_gets_a_bar_with_rate_and_time_left() -> None:
    screen, watch = io.StringIO(), Watch()
    console = Console(file=screen, force_terminal=True, width=120, color_system=None)
    with RowProgress(console, watch) as progress:
        progress(0, 4)
        watch.now_s += 2
        progress(1, 4)
    assert "1/4" in screen.getvalue()
    assert "2.0 s a row, 0:06 left" in screen.getvalue()
    assert "answering: " not in screen.getvalue()
