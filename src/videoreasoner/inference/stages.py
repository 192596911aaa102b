"""The stages of an answer, as they are reported while it is made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Stage = Literal["open", "search", "locate", "focus", "answer"]


@dataclass(frozen=True)
class StageProgress:
    """What is being done for an answer.

    Attributes:
        stage: "open" reads the frame table of the video, "search" decodes and encodes the frames that are searched,
            "locate" asks for the event and the key elements, "focus" chooses the frames of the last pass, and "answer"
            is the last pass. Modes other than "focus" have "open" and "answer" only.
        done, total: frames in "search"; elsewhere 0 of 1, when the stage begins.
    """

    stage: Stage
    done: int = 0
    total: int = 1


OnProgress = Callable[[StageProgress], None]


def ignore(progress: StageProgress) -> None:
    """For callers that do not want to know."""
