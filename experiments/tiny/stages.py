"""The stages in which the shipped checkpoints were trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ExampleKind = Literal["glances", "captions", "tasks", "moments"]


@dataclass(frozen=True)
class Stage:
    """One stage of training.

    Attributes:
        name: names its folder.
        examples: kind of training examples.
        steps, videos_per_step, learning_rate, seed: as usual.
        decay_over: length of the cosine schedule in steps, if it is longer than the stage.
        train_vision: whether the vision tower is trained. A step with a frozen tower costs a third less.
        events: fewest and most events in a video.
        event_share: shortest and longest event, as a share of the video.
        focused_share: share of videos that are sampled densely around one event.
    """

    name: str
    examples: ExampleKind
    steps: int
    videos_per_step: int
    learning_rate: float
    seed: int
    decay_over: int | None = None
    train_vision: bool = True
    events: tuple[int, int] = (2, 3)
    event_share: tuple[float, float] = (0.10, 0.28)
    focused_share: float = 0.5


_LONG = (0.12, 0.35)

# First what things look like, from two pairs of frames; then whole videos, described with times.
BASE_STAGES = (
    Stage("glances", "glances", 1000, 48, 7e-4, seed=2),
    Stage("captions", "captions", 700, 24, 5e-4, seed=0),
)
# First the tasks; then videos with one event, where the model can learn to read times without telling objects apart;
# then all videos; then again those where it has to tell objects apart.
TASK_STAGES = (
    Stage("tasks", "tasks", 800, 24, 5e-4, 1, 2600),
    Stage("one-event", "tasks", 600, 24, 5e-4, 3, 4000, train_vision=False, events=(1, 1), focused_share=0.1),
    Stage("all-videos", "tasks", 2600, 24, 5e-4, 4, None, False, (1, 3), _LONG, focused_share=0.35),
    Stage("several-events", "tasks", 850, 24, 5e-4, 5, None, False, (2, 3), _LONG, focused_share=0.1),
    Stage("moments", "moments", 2000, 16, 5e-4, 6, None, False, (2, 3), _LONG, focused_share=0.1),
    Stage("review", "tasks", 400, 24, 3e-4, 7, None, False, (1, 3), _LONG, focused_share=0.3),
)
ENCODER_STEPS = 1500
