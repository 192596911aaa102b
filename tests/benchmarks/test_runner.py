from __future__ import annotations

import fcntl
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.parrot import VIDEOS, Parrot, ParrotBenchmark, parrot_benchmark
from videoreasoner.benchmarks.runner import BenchmarkRun, load_run, run_benchmark
from videoreasoner.errors import EvaluationError, SettingError

TIMED = {"timing"}


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory: pytest.TempPathFactory) -> ParrotBenchmark:
    return parrot_benchmark(tmp_path_factory.mktemp("videos"))


def untimed(done: BenchmarkRun) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """All that must not depend on how the work was divided."""
    lines = [{key: value for key, value in item.items() if key not in TIMED} for item in done.results]
    metrics = json.loads(json.dumps(done.summary["metrics"]))
    for values in metrics.values():
        for of in values.values():
            del of["seconds"]
    return lines, metrics


def test_each_question_has_one_result_with_its_scores_and_hashes(benchmark: ParrotBenchmark, tmp_path: Path) -> None:
    done = run_benchmark(benchmark, Parrot(), tmp_path / "run")
    assert [item["id"] for item in done.results] == [row.id for row in benchmark.rows]
    for item, row in zip(done.results, benchmark.rows, strict=True):
        picked = "AB"[len(row.question) % 2]
        assert item["choice"] == picked
        assert item["scores"]["answer"] == float(picked == row.answer)
        # The fake engine writes "an answer", which names no option.
        assert (item["scores"]["answer_written"], item["scores"]["answer_parsed"]) == (0.0, 0.0)
        assert item["scores"]["event_parsed"] == 1.0
        assert item["data_hash"] == benchmark.data_hash
        assert item["model_hash"] == "parrot-0"
        assert set(item["confidence"]) == {"A", "B"}
        assert item["timing"]["total"] > 0
    everything = done.summary["metrics"]["all"]["all"]
    right = [item["scores"]["answer"] for item in done.results]
    assert everything["answer"]["mean"] == pytest.approx(sum(right) / len(right))
    assert {value: of["answer"]["count"] for value, of in done.summary["metrics"]["number"].items()} == {
        "even": 2 * VIDEOS,
        "odd": VIDEOS,
    }


def test_a_finished_run_is_read_back_as_it_was(benchmark: ParrotBenchmark, tmp_path: Path) -> None:
    done = run_benchmark(benchmark, Parrot(), tmp_path, command=["/somewhere/videoreasoner", "eval"])
    again = load_run(tmp_path)
    assert (again.results, again.summary, again.metrics) == (done.results, done.summary, done.metrics)
    assert again.summary["command"] == ["videoreasoner", "eval"]


def test_a_finished_run_loads_nothing(benchmark: ParrotBenchmark, tmp_path: Path) -> None:
    done = run_benchmark(benchmark, Parrot(), tmp_path)
    with pytest.raises(AssertionError, match="must not be loaded"):
        run_benchmark(benchmark, Parrot(broken=True), tmp_path / "new")
    again = run_benchmark(benchmark, Parrot(broken=True), tmp_path, command=["another"], workers=2)
    # How the answers came about stays what it was.
    assert (again.results, again.summary) == (done.results, done.summary)


def test_a_finished_run_that_cannot_be_written_is_shown(
    benchmark: ParrotBenchmark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = run_benchmark(benchmark, Parrot(), tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    # As of a read-only disk; the tests may be root's, whom access rights do not stop.
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    again = run_benchmark(benchmark, Parrot(broken=True), tmp_path)
    assert (again.results, again.summary) == (done.results, done.summary)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    with pytest.raises(EvaluationError, match="holds a run with another mode"):
        run_benchmark(benchmark, Parrot(), tmp_path, mode="direct")


def test_numbers_do_not_depend_on_how_the_work_is_divided(benchmark: ParrotBenchmark, tmp_path: Path) -> None:
    one = run_benchmark(benchmark, Parrot(), tmp_path / "one")
    shuffled = benchmark.with_rows(benchmark.rows[::-2] + benchmark.rows[-2::-2])
    assert [row.id for row in shuffled.rows] != [row.id for row in benchmark.rows]
    two = run_benchmark(shuffled, Parrot(), tmp_path / "two", workers=2)
    assert untimed(one) == untimed(two)


def test_a_run_continues_with_what_is_missing(benchmark: ParrotBenchmark, tmp_path: Path) -> None:
    whole = run_benchmark(benchmark, Parrot(), tmp_path / "whole")
    cut = tmp_path / "cut"
    run_benchmark(benchmark, Parrot(), cut)
    # As after a kill: one whole answer and half of the next one.
    answers = cut / "answers.jsonl"
    first, second, *_ = answers.read_bytes().split(b"\n")
    answers.write_bytes(first + b"\n" + second[:40])
    (cut / "results.jsonl").unlink()
    (cut / "summary.json").unlink()
    seen: list[tuple[int, int]] = []
    resumed = run_benchmark(
        benchmark, Parrot(), cut, workers=2, progress=lambda done, total: seen.append((done, total))
    )
    assert untimed(resumed) == untimed(whole)
    assert answers.read_bytes().startswith(first + b"\n")
    assert seen == [(n, 9) for n in range(1, 10)]


@pytest.mark.parametrize(
    ("candidate", "mode", "named"),
    [
        (Parrot(best=1), "focus", "model_hash"),
        (Parrot(), "direct", "mode"),
        (Parrot(identified={"settings": {"frame_budget": 2}}), "focus", "settings"),
    ],
)
def test_a_folder_holds_one_run(
    benchmark: ParrotBenchmark, tmp_path: Path, candidate: Parrot, mode: str, named: str
) -> None:
    run_benchmark(benchmark, Parrot(), tmp_path)
    before = (tmp_path / "results.jsonl").read_bytes()
    with pytest.raises(EvaluationError, match=rf"another {named}; give --out"):
        run_benchmark(benchmark, candidate, tmp_path, mode=mode)
    with pytest.raises(EvaluationError, match="another data_hash"):
        run_benchmark(benchmark.with_rows(benchmark.rows[:2]), Parrot(), tmp_path)
    assert (tmp_path / "results.jsonl").read_bytes() == before


def test_a_folder_of_something_else_is_left_alone(benchmark: ParrotBenchmark, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(EvaluationError, match="something else"):
        run_benchmark(benchmark, Parrot(), tmp_path)
    (tmp_path / "run.json").write_text("[]")
    with pytest.raises(EvaluationError, match="not the start of a run"):
        run_benchmark(benchmark, Parrot(), tmp_path)
    with pytest.raises(EvaluationError, match="cannot be written"):
        run_benchmark(benchmark, Parrot(), tmp_path / "thesis.txt" / "run")


def test_two_runs_do_not_write_into_one_folder(benchmark: ParrotBenchmark, tmp_path: Path) -> None:
    with (tmp_path / ".answers.jsonl.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(EvaluationError, match="another run is writing"):
            run_benchmark(benchmark, Parrot(), tmp_path)
    assert not run_benchmark(benchmark, Parrot(), tmp_path).failed


def test_a_video_that_fails_is_counted_named_and_asked_again(tmp_path: Path) -> None:
    benchmark = parrot_benchmark(tmp_path)
    video = tmp_path / "1.mp4"
    good = video.read_bytes()
    video.write_bytes(b"no video")
    done = run_benchmark(benchmark, Parrot(), tmp_path / "run")
    assert done.failed == 3
    assert [item["id"] for item in done.results if "error" in item] == ["video1-0", "video1-1", "video1-2"]
    assert all("1.mp4" in item["error"] for item in done.results if "error" in item)
    assert done.metrics["all"]["all"]["answer"].count == 6
    video.write_bytes(good)
    assert run_benchmark(benchmark, Parrot(), tmp_path / "run").metrics["all"]["all"]["answer"].count == 9


def test_a_run_without_any_answer_is_an_error(tmp_path: Path) -> None:
    benchmark = parrot_benchmark(tmp_path)
    for number in range(VIDEOS):
        (tmp_path / f"{number}.mp4").write_bytes(b"no video")
    with pytest.raises(EvaluationError, match=r"no question could be asked.*0\.mp4"):
        run_benchmark(benchmark, Parrot(), tmp_path / "run")


def test_how_is_checked_first(benchmark: ParrotBenchmark, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="mode 'guess' is unknown"):
        run_benchmark(benchmark, Parrot(), tmp_path, mode="guess")
    with pytest.raises(SettingError, match="--workers"):
        run_benchmark(benchmark, Parrot(), tmp_path, workers=0)


def test_reading_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="not a finished run"):
        load_run(tmp_path)


def test_a_benchmark_without_questions_is_refused(benchmark: ParrotBenchmark, tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="parrot has no questions"):
        run_benchmark(benchmark.with_rows([]), Parrot(), tmp_path / "a")
    spent: Any = iter(())
    with pytest.raises(EvaluationError, match="an iterator can be read once"):
        run_benchmark(replace(benchmark, rows=spent), Parrot(), tmp_path / "b")
    fresh: Any = iter(benchmark.rows)
    assert len(run_benchmark(replace(benchmark, rows=fresh), Parrot(), tmp_path / "c").results) == 9
    assert not (tmp_path / "a").exists()


def test_two_rows_with_one_id_are_refused(benchmark: ParrotBenchmark, tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="two rows with the same id"):
        run_benchmark(benchmark.with_rows([*benchmark.rows, benchmark.rows[0]]), Parrot(), tmp_path)
