"""The interface of engines: what `inference.reasoner` asks of a model, however it is run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from videoreasoner.settings import Settings
from videoreasoner.tasks import Task
from videoreasoner.video.reader import VideoReader
from videoreasoner.video.sampling import FramePlan


@dataclass(frozen=True)
class Completion:
    """What the model wrote for one task.

    Attributes:
        text: the completion, without task prefix and end token.
        tokens: how many were generated, the end token included.
        finished: whether the model ended it, rather than the length limit.
    """

    text: str
    tokens: int
    finished: bool


@dataclass(frozen=True)
class Reply:
    """What one pass over a clip returned.

    Attributes:
        completions: one for each requested task.
        option_log_probs: natural log-probability of each option's text behind the answer prefix, in order;
            empty unless options were to be scored.
        frame_times_s: true times of the frames that the model saw.
        tokens_in: prompt tokens that were processed; those that an earlier pass had processed are not counted again.
        warnings: why what was written means nothing for this video, in sentences.
    """

    completions: dict[Task, Completion]
    option_log_probs: tuple[float, ...]
    frame_times_s: tuple[float, ...]
    tokens_in: int
    warnings: tuple[str, ...] = ()


class ClipSession(Protocol):
    """One video and one model. Work on the video is kept for as long as the session lives.

    Attributes:
        seconds: time spent in each stage so far.
        frames_decoded, pairs_encoded: work done so far.
    """

    @property
    def seconds(self) -> dict[str, float]: ...
    @property
    def frames_decoded(self) -> int: ...
    @property
    def pairs_encoded(self) -> int: ...

    def decode_ahead(
        self, plan: FramePlan, also_s: NDArray[np.float64], short_side: int | None = None
    ) -> Iterator[tuple[float, NDArray[np.uint8]]]:
        """Decode what a plan needs, and in the same run frames that the caller wants.

        Args:
            also_s: float64[T], seconds, each once.
            short_side: the frames at `also_s` are scaled down to it; see `VideoFile.frames_at`.

        Yields:
            True time and uint8[H, W, 3] of the frame at each of `also_s`, in the order of time.

        Raises:
            VideoError: the video holds no usable frame.
        """
        ...

    def complete(
        self,
        plan: FramePlan,
        question: str,
        options: Sequence[str],
        tasks: Sequence[Task],
    ) -> Reply:
        """Look at the plan's frames and write one completion for each task, all of them together.

        When the answer is among the tasks and there are options, each option's text is scored as well. A completion
        has at most `settings.max_tokens(task)` tokens.

        Raises:
            VideoError: the video holds no usable frame.
        """
        ...


class Engine(Protocol):
    """A loaded model."""

    name: str
    settings: Settings

    def identity(self) -> dict[str, Any]:
        """What decides its answers, beside settings and prompts: plain data, for JSON."""
        ...

    def open(self, video: VideoReader) -> ClipSession:
        """Begin to work on an open video. The session does not close it."""
        ...
