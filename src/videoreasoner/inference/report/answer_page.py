"""The evidence page: an answer and how it was found, for people to read.

Everything on the page comes from the `Answer`, and from the video's pixels at the times that the answer names. Steps
that the mode does not take are left out.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from videoreasoner.inference.answer import Answer
from videoreasoner.inference.report.document import render_template, write_page
from videoreasoner.inference.report.pictures import PagePicture, count_uses
from videoreasoner.inference.report.timeline import Lane, lanes
from videoreasoner.rows import Row
from videoreasoner.spans import best_iou
from videoreasoner.tasks import LETTERS, Task
from videoreasoner.video.isolated.file import DEFAULT_TIME_LIMIT_S, GuardedVideoFile
from videoreasoner.video.reader import VideoReader

_BRANCHES = {
    Task.EVENT: ("Locate: key event", "shares of the video between two marks"),
    Task.KEY_ELEMENTS: ("Locate: key elements", "what has to be seen"),
    Task.ANSWER: ("Answer", "what the final pass wrote"),
    Task.THINK: ("Think", "reasoning as text, followed by the answer"),
}
_WORK = {
    "frames_decoded": "frames decoded for the model",
    "pairs_encoded": "frame pairs encoded",
    "frames_searched": "frames searched for key elements",
    "tokens_in": "prompt tokens processed",
    "tokens_out": "tokens written",
}


def write_report(
    answer: Answer,
    path: str | os.PathLike[str],
    truth: Row | None = None,
    *,
    video: VideoReader | None = None,
    video_time_limit_s: float = DEFAULT_TIME_LIMIT_S,
) -> None:
    """Write the page of an answer: the whole file, or nothing if anything fails.

    Args:
        answer: what is shown.
        path: the file; it is replaced if it exists.
        truth: the row that was asked, where its `answer` or `event` is known: the page then compares.
        video: the answer's video, where it is open already; otherwise it is opened for the pictures.
        video_time_limit_s: see `Reasoner`.

    Raises:
        VideoError: the video can no longer be decoded.
        SettingError: the file cannot be written.
    """
    uses = count_uses([k.time_s for k in answer.keyframes], [f.time_s for f in answer.frames])
    with ExitStack() as stack:
        opened = video or stack.enter_context(GuardedVideoFile(answer.video, video_time_limit_s))
        write_page(path, opened, uses, lambda pictures: render(answer, pictures, truth))


def render(answer: Answer, pictures: Mapping[float, PagePicture], truth: Row | None = None) -> str:
    """The page as HTML. The same arguments give the same page.

    Args:
        answer: what is shown.
        pictures: by seconds; times that are not there are shown without a picture.
        truth: see `write_report`.
    """
    shown = _AnswerView(answer, truth)
    return render_template(
        "answer.html",
        answer.video,
        answer.duration_s,
        pictures,
        answer.version,
        a=answer,
        shown=shown,
        lanes=shown.lanes,
    )


@dataclass(frozen=True)
class Bar:
    """One line of a table with a bar: a name, a share of the whole, and its value in words."""

    name: str
    share: float
    text: str


class _AnswerView:
    """What the template shows, computed from an answer."""

    def __init__(self, answer: Answer, truth: Row | None) -> None:
        self.answer = answer
        self.true_events = list(truth.event or ()) if truth else []
        self.true_choice = truth.answer if truth and answer.options else None
        self.true_text = truth.answer if truth and not answer.options else None

    @property
    def options(self) -> list[tuple[str, str, float | None]]:
        """(letter, text, probability) of each option; None where no probability is known."""
        shares = self.answer.confidence or {}
        return [(letter, text, shares.get(letter)) for letter, text in zip(LETTERS, self.answer.options, strict=False)]

    @property
    def probability(self) -> float | None:
        answer = self.answer
        return None if answer.confidence is None or answer.choice is None else answer.confidence[answer.choice]

    @property
    def overlap(self) -> float | None:
        """IoU of the located event with the true one that fits best; None where either is not known."""
        if self.answer.event is None or not self.true_events:
            return None
        return best_iou(self.answer.event, self.true_events)

    @property
    def lanes(self) -> list[Lane]:
        return lanes(self.answer, self.true_events)

    @property
    def dense(self) -> int:
        return sum(frame.dense for frame in self.answer.frames)

    @property
    def stages(self) -> list[Bar]:
        """Seconds of each stage; the last one is the time outside of all stages."""
        total = self.answer.timing.get("total", 0.0)
        stages = {name: seconds for name, seconds in self.answer.timing.items() if name != "total"}
        rest = total - sum(stages.values())
        if rest >= 0.005:
            stages["the rest"] = rest
        return [Bar(name, s / total if total > 0 else 0.0, f"{s:.2f} s") for name, s in stages.items()]

    @property
    def branches(self) -> list[tuple[str, str, str]]:
        """(branch, what it was asked for, what it wrote)."""
        written = self.answer.completions
        return [(*_BRANCHES[task], written[task]) for task in _BRANCHES if task in written]

    @property
    def work(self) -> list[tuple[str, int]]:
        return [(words, getattr(self.answer.usage, name)) for name, words in _WORK.items()]

    @property
    def settings(self) -> list[tuple[str, Any]]:
        return [(name.replace("_", " "), value) for name, value in self.answer.settings.items() if value is not None]

    @property
    def notes(self) -> list[str]:
        """The notes without the warnings, which stand above the answer."""
        return [note for note in self.answer.notes if note not in self.answer.warnings]

    def pictured(self, times_s: Sequence[float], pictures: Mapping[float, PagePicture]) -> int:
        return sum(time_s in pictures for time_s in times_s)
