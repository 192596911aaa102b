from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.benchmarks.parrot import Parrot, ParrotBenchmark, parrot_benchmark
from videoreasoner.benchmarks.compare import Difference, compare
from videoreasoner.benchmarks.runner import load_run, run_benchmark
from videoreasoner.benchmarks.table import difference_table, metric_tables
from videoreasoner.errors import EvaluationError


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory: pytest.TempPathFactory) -> ParrotBenchmark:
    return parrot_benchmark(tmp_path_factory.mktemp("videos"))


def one(differences: list[Difference], metric: str, key: str = "all", value: str = "all") -> Difference:
    [found] = [d for d in differences if (d.metric, d.key, d.value) == (metric, key, value)]
    return found


def test_the_difference_is_that_of_the_means_and_turns_with_the_runs(
    benchmark: ParrotBenchmark, tmp_path: Path
) -> None:
    a = run_benchmark(benchmark, Parrot(), tmp_path / "a")
    b = run_benchmark(benchmark, Parrot(best=1), tmp_path / "b")
    there, back = compare(a, b), compare(b, a)
    for key, values in a.metrics.items():
        for value in values:
            forth = one(there, "answer", key, value)
            assert forth.a == pytest.approx(a.metrics[key][value]["answer"].mean)
            assert forth.b == pytest.approx(b.metrics[key][value]["answer"].mean)
            assert forth.paired.mean == pytest.approx(forth.b - forth.a)
            assert one(back, "answer", key, value).paired.mean == pytest.approx(-forth.paired.mean)
    # Two options, and the second candidate picks the other one: what one gets right the other gets wrong.
    everything = one(there, "answer")
    assert everything.a + everything.b == pytest.approx(1.0)
    assert "B - A" in difference_table(there)


def test_a_run_does_not_differ_from_itself(benchmark: ParrotBenchmark, tmp_path: Path) -> None:
    a = run_benchmark(benchmark, Parrot(), tmp_path)
    assert all((d.paired.mean, d.paired.low, d.paired.high) == (0.0, 0.0, 0.0) for d in compare(a, a))


def test_only_metrics_that_both_have_are_compared(benchmark: ParrotBenchmark, tmp_path: Path) -> None:
    direct = run_benchmark(benchmark, Parrot(), tmp_path / "direct", mode="direct")
    focus = run_benchmark(benchmark, Parrot(), tmp_path / "focus")
    assert "event_iou" in focus.metrics["all"]["all"]
    assert "event_iou" not in direct.metrics["all"]["all"]
    assert "event_iou" not in {d.metric for d in compare(direct, focus)}
    assert "event_iou" in metric_tables(focus.metrics)


def test_runs_over_different_data_are_refused(benchmark: ParrotBenchmark, tmp_path: Path) -> None:
    a = run_benchmark(benchmark, Parrot(), tmp_path / "a")
    b = run_benchmark(benchmark.with_rows(benchmark.rows[1:]), Parrot(), tmp_path / "b")
    with pytest.raises(EvaluationError, match="different data"):
        compare(a, b)
    results = tmp_path / "a" / "results.jsonl"
    results.write_text("".join(results.read_text().splitlines(keepends=True)[1:]))
    with pytest.raises(EvaluationError, match="different questions"):
        compare(load_run(tmp_path / "a"), a)


@pytest.mark.parametrize("summary", ["{}", "[]", "3"])
def test_a_folder_of_something_else_is_no_run(summary: str, tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text(summary)
    (tmp_path / "results.jsonl").write_text("{}\n")
    with pytest.raises(EvaluationError, match=r"not a finished run .*something else"):
        load_run(tmp_path)


def test_runs_with_holes_are_refused(benchmark: ParrotBenchmark, tmp_path: Path) -> None:
    a = run_benchmark(benchmark, Parrot(), tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    (tmp_path / "summary.json").write_text(json.dumps({**summary, "failed": 2}))
    with pytest.raises(EvaluationError, match="2 question"):
        compare(a, load_run(tmp_path))
