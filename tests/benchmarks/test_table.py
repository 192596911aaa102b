from __future__ import annotations

import math

from videoreasoner.benchmarks.compare import Difference
from videoreasoner.benchmarks.table import difference_table, metric_tables
from videoreasoner.utils.intervals import Estimate


def estimate(mean: float) -> Estimate:
    return Estimate(mean, mean - 0.125, mean + 0.125, 8)


def cells(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


def test_shares_are_per_cent_overlaps_are_shares_and_costs_are_amounts() -> None:
    of = {"answer": estimate(0.5), "event_iou": estimate(0.25), "seconds": estimate(1.5), "frames": estimate(16.0)}
    head, rule, *body = cells(metric_tables({"all": {"all": of}}))
    assert head == ["all", "all (n=8)"]
    assert set("".join(rule)) == {"-"}
    assert dict(body) == {
        "answer": "50.0 % [37.5, 62.5]",
        "event_iou": "0.250 [0.125, 0.375]",
        "seconds": "1.50 [1.38, 1.62]",
        "frames": "16.0 [15.9, 16.1]",
    }


def test_amounts_and_differences_of_one_video_have_no_interval() -> None:
    one = Estimate(1.5, -math.inf, math.inf, 2)
    assert "1.50 (one video: no interval)" in metric_tables({"all": {"all": {"seconds": one}}})
    table = difference_table([Difference("all", "all", name, 1.0, 2.5, one) for name in ("answer", "seconds")])
    assert "+150.0 (one video: no interval)" in table
    assert "+1.50 (one video: no interval)" in table
    assert "inf" not in table


def test_each_grouping_has_a_table_unless_it_has_too_many_groups() -> None:
    metrics = {
        "all": {"all": {"answer": estimate(0.5)}},
        "split": {"a": {"answer": estimate(0.5), "event_iou": estimate(0.5)}, "b": {"answer": estimate(0.25)}},
        "cell": {str(number): {"answer": estimate(0.5)} for number in range(7)},
    }
    everything, split = metric_tables(metrics).split("\n\n")
    assert "cell" not in everything + split
    assert cells(split)[0] == ["split", "a (n=8)", "b (n=8)"]
    # A metric that does not apply to a group has an empty cell.
    assert cells(split)[-1] == ["event_iou", "0.500 [0.375, 0.625]", ""]


def test_differences_are_points_and_costs_are_shown_over_all_questions_only() -> None:
    paired = Estimate(0.125, -0.125, 0.25, 8)
    table = difference_table(
        [
            Difference("all", "all", "answer", 0.5, 0.625, paired),
            Difference("split", "a", "answer", 0.5, 0.625, paired),
            Difference("all", "all", "seconds", 1.0, 1.125, paired),
            Difference("split", "a", "seconds", 1.0, 1.125, paired),
        ]
    )
    _, _, *body = cells(table)
    assert body == [
        ["all", "answer", "50.0 %", "62.5 %", "+12.5 [-12.5, 25.0]", "8"],
        ["split a", "answer", "50.0 %", "62.5 %", "+12.5 [-12.5, 25.0]", "8"],
        ["all", "seconds", "1.00", "1.12", "+0.12 [-0.12, 0.25]", "8"],
    ]
