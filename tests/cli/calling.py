"""Calls of the command line, for the tests in this folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.fake_engine import SETTINGS, FakeEncoder, FakeEngine
from videoreasoner.inference.candidate import LocalCandidate
from videoreasoner.inference.reasoner import Reasoner
from videoreasoner.tasks import Task


@dataclass
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Result]


def in_a_process(*arguments: str | Path) -> Result:
    done = subprocess.run(
        [sys.executable, "-m", "videoreasoner.cli.main", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "default"},
    )
    return Result(done.returncode, done.stdout, done.stderr)


def one_line(result: Result, *words: str) -> None:
    assert result.code == 2, result
    [line] = result.err.splitlines()
    assert line.startswith("error: ")
    assert "Traceback" not in result.err
    assert len(line) < 600
    for word in words:
        assert word in line


@dataclass
class Loading:
    """Stands in for `Reasoner.from_pretrained`."""

    models: list[str] = field(default_factory=list)
    given: dict[str, Any] = field(default_factory=dict)

    def __call__(
        self,
        model: str = "tiny",
        *,
        encoder: str | None = None,
        device: str,
        constrain_event: bool,
        video_time_limit_s: float = 300.0,
        **overrides: Any,
    ) -> Reasoner:
        self.models.append(model)
        self.given = {
            "encoder": encoder,
            "device": device,
            "constrain_event": constrain_event,
            "video_time_limit_s": video_time_limit_s,
        }
        engine = FakeEngine(SETTINGS.changed(**overrides), name=model)
        engine.texts[Task.KEY_ELEMENTS] = "10"
        found_by = None if encoder == "none" else FakeEncoder()
        return Reasoner(engine, found_by, video_time_limit_s=video_time_limit_s)


def answers_as(candidate: LocalCandidate) -> dict[str, Any]:
    """Stands in for `LocalCandidate.answers_as` beside `Loading`."""
    engine = FakeEngine(SETTINGS.changed(**candidate.settings), name=candidate.model)
    return {"engine": engine.identity(), "settings": engine.settings.for_inference()}
