from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.parrot import VIDEOS, Parrot, ParrotBenchmark, is_running, parrot_benchmark
from videoreasoner.benchmarks.runner import Run, load_run, run
from videoreasoner.errors import CheckpointError, EvaluationError, SettingError
from videoreasoner.inference.reasoner import Reasoner

TIMED = {"timing"}


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory: pytest.TempPathFactory) -> ParrotBenchmark:
    return parrot_benchmark(tmp_path_factory.mktemp("videos"))


def untimed(done: Run) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """All that must not depend on how the work was divided."""
    lines = [{key: value for key, value in item.items() if key not in TIMED} for item in done.results]
    metrics = json.loads(json.dumps(done.summary["metrics"]))
    for values in metrics.values():
        for of in values.values():
            del of["seconds"]
    return lines, metrics


def test_each_question_has_one_result_with_its_scores_and_hashes(benchmark: ParrotBenchmark, tmp_path: Path) -> None:
    done = run(benchmark, Parrot(), tmp_path / "run")
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
    done = run(benchmark, Parrot(), tmp_path, command=["/somewhere/videoreasoner", "eval"])
    again = load_run(tmp_path)
    assert (again.results, again.summary, again.metrics) == (done.results, done.summary, done.metrics)
    assert again.summary["command"] == ["videoreasoner", "eval"]


def test_a_finished_run_loads_nothing(benchmark: ParrotBenchmark, tmp_path: Path) -> None:
    done = run(benchmark, Parrot(), tmp_path)
    with pytest.raises(AssertionError, match="must not be loaded"):
        run(benchmark, Parrot(broken=True), tmp_path / "new")
    again = run(benchmark, Parrot(broken=True), tmp_path, command=["another"], workers=2)
    # How the answers came about stays what it was.
    assert (again.results, again.summary) == (done.results, done.summary)


def test_a_finished_run_that_cannot_be_written_is_shown(
    benchmark: ParrotBenchmark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = run(benchmark, Parrot(), tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    # As of a read-only disk; the tests may be root's, whom access rights do not stop.
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    again = run(benchmark, Parrot(broken=True), tmp_path)
    assert (again.results, again.summary) == (done.results, done.summary)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    with pytest.raises(EvaluationError, match="holds a run with another mode"):
        run(benchmark, Parrot(), tmp_path, mode="direct")


def test_numbers_do_not_depend_on_how_the_work_is_divided(benchmark: ParrotBenchmark, tmp_path: Path) -> None:
    one = run(benchmark, Parrot(), tmp_path / "one")
    shuffled = benchmark.with_rows(benchmark.rows[::-2] + benchmark.rows[-2::-2])
    assert [row.id for row in shuffled.rows] != [row.id for row in benchmark.rows]
    two = run(shuffled, Parrot(), tmp_path / "two", workers=2, videos_a_part=1)
    assert untimed(one) == untimed(two)


def test_a_run_goes_on_with_what_is_missing(benchmark: ParrotBenchmark, tmp_path: Path) -> None:
    whole = run(benchmark, Parrot(), tmp_path / "whole", videos_a_part=2)
    cut = tmp_path / "cut"
    run(benchmark, Parrot(), cut, videos_a_part=2)
    # A kill leaves the first line of a part and half of the second, and the other part unasked.
    answers = cut / "answers" / "00000.jsonl"
    first, second, *_ = answers.read_bytes().split(b"\n")
    answers.write_bytes(first + b"\n" + second[:40])
    (cut / "answers" / "00001.jsonl").unlink()
    (cut / "results.jsonl").unlink()
    (cut / "summary.json").unlink()
    seen: list[tuple[int, int]] = []
    resumed = run(benchmark, Parrot(), cut, progress=lambda done, total: seen.append((done, total)))
    assert untimed(resumed) == untimed(whole)
    assert answers.read_bytes().startswith(first + b"\n")
    assert seen[0] == (1, 9)
    assert seen[-1] == (9, 9)
    assert seen == sorted(seen)


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
    run(benchmark, Parrot(), tmp_path)
    before = (tmp_path / "results.jsonl").read_bytes()
    with pytest.raises(EvaluationError, match=rf"another {named}; give --out"):
        run(benchmark, candidate, tmp_path, mode=mode)
    with pytest.raises(EvaluationError, match="another data_hash"):
        run(benchmark.with_rows(benchmark.rows[:2]), Parrot(), tmp_path)
    assert (tmp_path / "results.jsonl").read_bytes() == before


def test_a_folder_of_something_else_is_left_alone(benchmark: ParrotBenchmark, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(EvaluationError, match="something else"):
        run(benchmark, Parrot(), tmp_path)
    (tmp_path / "run.json").write_text("[]")
    with pytest.raises(EvaluationError, match="not the start of a run"):
        run(benchmark, Parrot(), tmp_path)
    with pytest.raises(EvaluationError, match="cannot be used"):
        run(benchmark, Parrot(), tmp_path / "thesis.txt" / "run")


def test_two_runs_do_not_write_into_one_folder(benchmark: ParrotBenchmark, tmp_path: Path) -> None:
    with (tmp_path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(EvaluationError, match="another run is writing"):
            run(benchmark, Parrot(), tmp_path)
    assert not run(benchmark, Parrot(), tmp_path).failed


def test_a_video_that_fails_is_counted_named_and_asked_again(tmp_path: Path) -> None:
    benchmark = parrot_benchmark(tmp_path)
    video = tmp_path / "1.mp4"
    good = video.read_bytes()
    video.write_bytes(b"no video")
    done = run(benchmark, Parrot(), tmp_path / "run")
    assert done.failed == 3
    assert [item["id"] for item in done.results if "error" in item] == ["video1-0", "video1-1", "video1-2"]
    assert all("1.mp4" in item["error"] for item in done.results if "error" in item)
    assert done.metrics["all"]["all"]["answer"].count == 6
    video.write_bytes(good)
    assert run(benchmark, Parrot(), tmp_path / "run").metrics["all"]["all"]["answer"].count == 9


def test_a_run_without_any_answer_is_an_error(tmp_path: Path) -> None:
    benchmark = parrot_benchmark(tmp_path)
    for number in range(VIDEOS):
        (tmp_path / f"{number}.mp4").write_bytes(b"no video")
    with pytest.raises(EvaluationError, match=r"no question could be asked.*0\.mp4"):
        run(benchmark, Parrot(), tmp_path / "run")


class Absent(Parrot):
    def load(self) -> Reasoner:
        raise CheckpointError("there is no parrot; buy one")


class Dying(Parrot):
    def load(self) -> Reasoner:
        raise SystemExit(7)


def test_what_happens_to_a_worker_is_told(benchmark: ParrotBenchmark, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="buy one"):
        run(benchmark, Absent(), tmp_path / "a", workers=2, videos_a_part=1)
    with pytest.raises(EvaluationError, match=r"worker ended with exit code 7.*fewer --workers"):
        run(benchmark, Dying(), tmp_path / "b", workers=2, videos_a_part=1)


def test_workers_end_with_a_run_that_is_killed(tmp_path: Path) -> None:
    code = """
from pathlib import Path
from tests.benchmarks.parrot import Sleeper, parrot_benchmark
from videoreasoner.benchmarks.runner import run
folder = Path({!r})
run(parrot_benchmark(folder), Sleeper(folder=folder), folder / "run", workers=2, videos_a_part=1)
"""
    process = subprocess.Popen([sys.executable, "-c", code.format(str(tmp_path))], cwd=Path(__file__).parents[2])
    while len(found := list(tmp_path.glob("*.pid"))) < 2:
        assert process.poll() is None
        time.sleep(0.05)
    assert all(is_running(path.stem) for path in found)
    process.kill()
    process.wait()
    while any(is_running(path.stem) for path in found):
        time.sleep(0.05)


def test_how_is_checked_first(benchmark: ParrotBenchmark, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="mode 'guess' is unknown"):
        run(benchmark, Parrot(), tmp_path, mode="guess")
    with pytest.raises(SettingError, match="--workers"):
        run(benchmark, Parrot(), tmp_path, workers=0)


def test_reading_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="not a finished run"):
        load_run(tmp_path)
