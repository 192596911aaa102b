from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.benchmarks.parrot import Parrot, ParrotBenchmark, is_running, parrot_benchmark
from videoreasoner.benchmarks.runner import run_benchmark
from videoreasoner.benchmarks.workers import WorkerConfig, answer_videos
from videoreasoner.errors import CheckpointError, EvaluationError
from videoreasoner.inference.reasoner import Reasoner


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory: pytest.TempPathFactory) -> ParrotBenchmark:
    return parrot_benchmark(tmp_path_factory.mktemp("videos"))


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_every_question_has_one_record_for_any_number_of_workers(benchmark: ParrotBenchmark, workers: int) -> None:
    config = WorkerConfig(Parrot(), "focus", benchmark.video_root)
    rows = benchmark.rows
    records = list(answer_videos(config, [rows[:3], rows[3:6], rows[6:]], workers))
    assert sorted(record["id"] for record in records) == [row.id for row in rows]
    assert all(record["choice"] in ("A", "B") for record in records)


def test_nothing_is_loaded_for_no_questions(benchmark: ParrotBenchmark) -> None:
    config = WorkerConfig(Parrot(broken=True), "focus", benchmark.video_root)
    assert list(answer_videos(config, [], 2)) == []


class Absent(Parrot):
    def load(self) -> Reasoner:
        raise CheckpointError("there is no parrot; buy one")


class Dying(Parrot):
    def load(self) -> Reasoner:
        raise SystemExit(7)


def test_the_end_of_a_worker_is_reported(benchmark: ParrotBenchmark, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="buy one"):
        run_benchmark(benchmark, Absent(), tmp_path / "a", workers=2)
    with pytest.raises(EvaluationError, match=r"worker ended with exit code 7.*fewer --workers"):
        run_benchmark(benchmark, Dying(), tmp_path / "b", workers=2)


def test_workers_end_with_a_run_that_is_killed(tmp_path: Path) -> None:
    code = """
from pathlib import Path
from tests.benchmarks.parrot import Sleeper, parrot_benchmark
from videoreasoner.benchmarks.runner import run_benchmark
folder = Path({!r})
run_benchmark(parrot_benchmark(folder), Sleeper(folder=folder), folder / "run", workers=2)
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
