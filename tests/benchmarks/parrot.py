"""A benchmark over two tiny videos and a candidate that answers by rule, for tests of the runner alone."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.fake_engine import SETTINGS, FakeEngine
from tests.video.videos import Recipe
from videoreasoner.benchmarks.scores import answer_scores, event_scores
from videoreasoner.inference.reasoner import Reasoner
from videoreasoner.rows import Row
from videoreasoner.utils.hashing import hash_rows

VIDEOS = 3


@dataclass(frozen=True)
class ParrotBenchmark:
    """Questions of which the candidate, which answers by the length of the question, gets some right."""

    rows: tuple[Row, ...]
    video_root: Path
    data_hash: str
    name: str = "parrot"

    def scores(self, row: Row, answer: Mapping[str, Any]) -> dict[str, float]:
        return {**answer_scores(row, answer), **event_scores(row, answer)}

    def groups(self, row: Row) -> dict[str, str]:
        return {"number": "even" if row.id.endswith(("0", "2")) else "odd"}

    def with_rows(self, rows: Sequence[Row]) -> ParrotBenchmark:
        return replace(self, rows=tuple(rows), data_hash=hash_rows(rows, self.video_root))


@dataclass(frozen=True)
class Parrot:
    """A candidate that can be pickled. `best` is added to what decides the option it picks."""

    best: int = 0
    broken: bool = False
    identified: dict[str, Any] = field(default_factory=dict)

    def identity(self) -> dict[str, Any]:
        settings = SETTINGS.for_inference()
        return {"model": "fake", "model_hash": f"parrot-{self.best}", "settings": settings, **self.identified}

    def load(self) -> Reasoner:
        assert not self.broken, "this candidate must not be loaded"
        return Reasoner(FakeEngine(best=Longer(self.best)))


@dataclass(frozen=True)
class Sleeper(Parrot):
    """Never gets to answer; each process that loads it leaves a file named by its id."""

    folder: Path = Path()

    def load(self) -> Reasoner:
        (self.folder / f"{os.getpid()}.pid").touch()
        time.sleep(3600)
        raise AssertionError("the test should have stopped this worker")


@dataclass(frozen=True)
class Longer:
    by: int

    def __call__(self, question: str) -> int:
        return len(question) + self.by


def parrot_benchmark(folder: Path) -> ParrotBenchmark:
    rows = []
    for video_file in range(VIDEOS):
        Recipe(f"{video_file}.mp4", count=10).make(folder)
        for number in range(3):
            content = {
                "id": f"video{video_file}-{number}", "video": f"{video_file}.mp4",
                "question": "?" * (1 + video_file + number),
                "options": ["yes", "no"], "answer": "AB"[number % 2], "event": [0.1, 0.5],
            }  # fmt: skip
            rows.append(Row.model_validate(content))
    return ParrotBenchmark(tuple(rows), folder, hash_rows(rows, folder))


def is_running(pid: int | str) -> bool:
    """Whether there is such a process; one that has ended and waits to be noticed is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
