from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.benchmarks.parrot import Parrot, ParrotBenchmark, is_running, parrot_benchmark
from videoreasoner.benchmarks.runner import run_benchmark
from videoreasoner.errors import CheckpointError, WorkerError
from videoreasoner.inference.reasoner import Reasoner
from videoreasoner.inference.workers import WorkerConfig, answer_videos, take_gpu


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


@pytest.mark.parametrize(("gpus", "taken"), [(0, []), (1, [0, 0, 0]), (2, [0, 1, 0]), (8, [0, 1, 2])])
def test_each_worker_takes_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch, gpus: int, taken: list[int]) -> None:
    chosen: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    for number in range(3):
        take_gpu(number)
    assert chosen == taken


def test_nothing_is_loaded_for_no_questions(benchmark: ParrotBenchmark) -> None:
    config = WorkerConfig(Parrot(broken=True), "focus", benchmark.video_root)
    assert list(answer_videos(config, [], 2)) == []


class Absent(Parrot):
    def load(self) -> Reasoner:
        # An interrupt from the keyboard is for the parent, which ends its workers.
        blocked = signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())
        raise CheckpointError(f"there is no parrot; buy one (interrupts are blocked: {blocked})")


class Dying(Parrot):
    def load(self) -> Reasoner:
        raise SystemExit(7)


def test_the_end_of_a_worker_is_reported(benchmark: ParrotBenchmark, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"buy one.*blocked: True"):
        run_benchmark(benchmark, Absent(), tmp_path / "a", workers=2)
    with pytest.raises(WorkerError, match=r"worker ended with exit code 7.*fewer --workers"):
        run_benchmark(benchmark, Dying(), tmp_path / "b", workers=2)
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_an_error_is_reported_by_a_worker_that_read_no_rows(benchmark: ParrotBenchmark) -> None:
    config = WorkerConfig(Absent(), "focus", benchmark.video_root)
    # More than a pipe holds.
    large = [benchmark.rows[0].model_copy(update={"question": "?" * 2**20})]
    with pytest.raises(CheckpointError, match="buy one"):
        list(answer_videos(config, [large, large], 2))


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
