from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.inference.report.answers import ANSWER, CASES
from videoreasoner.inference.report.timeline import clock, lanes, ticks
from videoreasoner.spans import Span


@given(st.floats(0.01, 1e6))
def test_ticks_are_few_and_run_from_the_start_to_near_the_end(duration_s: float) -> None:
    made = ticks(duration_s)
    assert made[0].left == 0
    assert [t.left for t in made] == sorted(t.left for t in made)
    assert len({t.text for t in made}) == len(made)
    assert 2 <= len(made) <= 8
    # The next one would lie behind the end.
    assert made[-1].left + made[1].left > 100 - 1e-6
    assert made[-1].left <= 100


@pytest.mark.parametrize(
    ("time_s", "duration_s", "digits", "text"),
    [
        (4.25, 60, 2, "4.25 s"),
        (4.25, 60, 0, "4 s"),
        (64.25, 120, 2, "1:04.25"),
        (59.999, 120, 2, "1:00.00"),
        (3725.5, 4000, 1, "1:02:05.5"),
        (0, 4000, 0, "0:00:00"),
    ],
)
def test_clock(time_s: float, duration_s: float, digits: int, text: str) -> None:
    assert clock(time_s, duration_s, digits) == text


@given(st.floats(0, 7200), st.floats(101, 7200), st.integers(0, 2))
def test_a_clock_can_be_read_back(time_s: float, duration_s: float, digits: int) -> None:
    seconds = 0.0
    for part in clock(time_s, duration_s, digits).split(":"):
        seconds = seconds * 60 + float(part)
    assert seconds == pytest.approx(time_s, abs=0.51 * 10**-digits)


def test_lanes_show_what_there_is_and_nothing_else() -> None:
    assert [lane.kind for lane in lanes(ANSWER)] == ["event", "spans", "keyframes", "frames"]
    assert [lane.kind for lane in lanes(ANSWER, [Span(0, 1)])][0:1] == ["truth"]
    assert [lane.kind for lane in lanes(CASES["direct"])] == ["frames"]
    assert lanes(CASES["direct"])[0].text == "20 sparse"
    assert lanes(replace(CASES["direct"], frames=[])) == []
    many = {lane.kind: lane for lane in lanes(CASES["200 key spans"])}
    assert many["spans"].text == "200 spans, 1.0 s together"
    assert len(many["spans"].marks) == 200


@pytest.mark.parametrize("name", CASES)
def test_marks_stay_inside_the_video(name: str) -> None:
    for lane in lanes(CASES[name], [Span(-1.0, 0.5), Span(1.5, 1e9)]):
        for mark in lane.marks:
            assert 0 <= mark.left <= mark.left + mark.width <= 100 + 1e-9
