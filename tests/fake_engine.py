"""An engine and an encoder that answer by rule and count, so that the pipeline around them can be tested alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from videoreasoner.engines.engine import Completion, Reply
from videoreasoner.settings import Settings
from videoreasoner.tasks import Task
from videoreasoner.video.pyav.file import VideoFile
from videoreasoner.video.sampling import FramePlan

SETTINGS = Settings(
    frame_budget=16,
    sparse_rate_fps=2.0,
    dense_rate_fps=4.0,
    keyframe_width_s=1.0,
    training={"recipe": {"tasks": [str(task) for task in Task]}},
)
EVENT = "<|event_start|>[0.25, 0.50]<|event_end|>"


@dataclass
class Call:
    plan: FramePlan
    question: str
    options: tuple[str, ...]
    tasks: tuple[Task, ...]


@dataclass
class FakeEngine:
    """Writes `texts`, and gives option number `best(question)` the highest log-probability."""

    settings: Settings = SETTINGS
    texts: dict[Task, str] = field(
        default_factory=lambda: {
            Task.EVENT: EVENT,
            Task.KEY_ELEMENTS: "",
            Task.ANSWER: "an answer",
            Task.THINK: "it seems so </think> an answer",
        }
    )
    best: Callable[[str], int] = len
    name: str = "fake"
    calls: list[Call] = field(default_factory=list)
    opened: int = 0
    model_hash: str = "one"
    warnings: tuple[str, ...] = ()

    def identity(self) -> dict[str, Any]:
        return {"model": self.name, "model_hash": self.model_hash}

    def open(self, video: VideoFile) -> FakeSession:
        self.opened += 1
        return FakeSession(self, video)


@dataclass
class FakeSession:
    engine: FakeEngine
    video: VideoFile
    frames_decoded: int = 0
    pairs_encoded: int = 0
    seconds: dict[str, float] = field(default_factory=dict)

    def decode_ahead(
        self, plan: FramePlan, also_s: NDArray[np.float64], short_side: int | None = None
    ) -> Iterator[tuple[float, NDArray[np.uint8]]]:
        return self.video.iter_frames_at(also_s, "exact", short_side)

    def complete(self, plan: FramePlan, question: str, options: Sequence[str], tasks: Sequence[Task]) -> Reply:
        self.engine.calls.append(Call(plan, question, tuple(options), tuple(tasks)))
        self.frames_decoded += len(plan.times_s)
        self.pairs_encoded += len(plan)
        self.seconds = {"decode": self.seconds.get("decode", 0.0) + 1.0, "idle": 0.0}
        completions = {task: Completion(self.engine.texts[task], 3, True) for task in tasks}
        log_probs: tuple[float, ...] = ()
        if options and Task.ANSWER in tasks:
            best = self.engine.best(question) % len(options)
            log_probs = tuple(-1.0 if i == best else -50.0 - i for i in range(len(options)))
        return Reply(completions, log_probs, tuple(plan.times_s.tolist()), 10, self.engine.warnings)


@dataclass
class FakeEncoder:
    """The element "3" looks like image number 3 of a video, and so on."""

    name: str = "fake"
    image_side: int | None = 32
    images: int = 0
    texts: list[str] = field(default_factory=list)

    def encode_texts(self, texts: Sequence[str]) -> torch.Tensor:
        self.texts += texts
        return torch.eye(1024)[[int(text) for text in texts]]

    def encode_images(self, images: NDArray[np.uint8]) -> torch.Tensor:
        rows = torch.eye(1024)[self.images : self.images + len(images)]
        self.images += len(images)
        return rows
