"""The evidence page: an answer's record, laid out to be read.

Everything on the page comes from the `Answer` (and from the video's pixels at the times that it records); what a run
did not do is not there. One file, no script, nothing loaded from anywhere.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from videoreasoner.errors import SettingError
from videoreasoner.inference.answer import Answer
from videoreasoner.inference.report.pictures import Picture, count_uses, take_pictures
from videoreasoner.inference.report.timeline import Lane, clock, lanes, ticks
from videoreasoner.rows import Row
from videoreasoner.spans import best_iou
from videoreasoner.tasks import LETTERS, Task
from videoreasoner.utils.files import replacing
from videoreasoner.video.isolated.file import DEFAULT_TIME_LIMIT_S, GuardedVideoFile

# A page of a usual answer stays below a megabyte, text included.
_PAGE_BYTES = 980_000
# What pictures get even where the texts are that long by themselves.
_LEAST_PICTURE_BYTES = 300_000

_BRANCHES = {
    Task.EVENT: ("Locate: key event", "shares of the video between two marks"),
    Task.KEY_ELEMENTS: ("Locate: key elements", "what has to be seen"),
    Task.ANSWER: ("Answer", "what the final pass wrote"),
    Task.THINK: ("Think", "reasoning as text, and the answer behind it"),
}
_WORK = {
    "frames_decoded": "frames decoded for the model",
    "pairs_encoded": "frame pairs encoded",
    "frames_searched": "frames searched for key elements",
    "tokens_in": "prompt tokens processed",
    "tokens_out": "tokens written",
}
# Control characters have no place in HTML; their pictures have.
_CONTROLS = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n"} | {0x7F: 0x2421}


def write_report(
    answer: Answer,
    path: str | os.PathLike[str],
    truth: Row | None = None,
    video_time_limit_s: float = DEFAULT_TIME_LIMIT_S,
) -> None:
    """Write the page of an answer: the whole file or nothing, whatever happens.

    Args:
        answer: what is shown. Its video is opened again, for the pictures.
        path: the file, replaced when it is there.
        truth: the row that was asked, where its `answer` or `event` is known: the page then compares.
        video_time_limit_s: see `Reasoner`.

    Raises:
        VideoError: the video can no longer be decoded.
        SettingError: the file cannot be written.
    """
    bare = render(answer, {}, truth)
    limit = max(_PAGE_BYTES - len(_encoded(bare)), _LEAST_PICTURE_BYTES)
    uses = count_uses([k.time_s for k in answer.keyframes], [f.time_s for f in answer.frames])
    with GuardedVideoFile(answer.video, video_time_limit_s) as video:
        pictures = take_pictures(video, uses, limit)
    path = Path(path)
    try:
        with replacing(path) as partial:
            partial.write_bytes(_encoded(render(answer, pictures, truth)))
    except OSError as error:
        raise SettingError(
            f"{path}: cannot be written ({error.strerror or error}); give a file name in a folder that exists and is "
            "writable"
        ) from error


def render(answer: Answer, pictures: Mapping[float, Picture], truth: Row | None = None) -> str:
    """The page as HTML. The same arguments give the same page.

    Args:
        answer: what is shown.
        pictures: by seconds; times that are not there are shown without a picture.
        truth: see `write_report`.
    """
    shown = _Shown(answer, truth)
    return (
        _TEMPLATES.get_template("page.html")
        .render(
            a=answer,
            shown=shown,
            pictures=pictures,
            lanes=shown.lanes,
            ticks=ticks(answer.duration_s),
            clock=lambda time_s, digits=2: clock(time_s, answer.duration_s, digits),
        )
        .translate(_CONTROLS)
    )


def _encoded(page: str) -> bytes:
    # Half a surrogate pair, which a file name may hold, has no UTF-8.
    return page.encode("utf-8", "backslashreplace")


@dataclass(frozen=True)
class Bar:
    """One line of a table with a bar: a name, a share of the whole, the figure in words."""

    name: str
    share: float
    text: str


class _Shown:
    """What the template shows, computed from an answer."""

    def __init__(self, answer: Answer, truth: Row | None) -> None:
        self.answer = answer
        self.true_events = list(truth.event or ()) if truth else []
        self.true_choice = truth.answer if truth and answer.options else None
        self.true_text = truth.answer if truth and not answer.options else None

    @property
    def video_name(self) -> str:
        return self.answer.video.rstrip("/").rsplit("/", 1)[-1]

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
        """Seconds of each stage; the last one is what belongs to none."""
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

    def pictured(self, times_s: Sequence[float], pictures: Mapping[float, Picture]) -> int:
        return sum(time_s in pictures for time_s in times_s)


_TEMPLATES = Environment(
    loader=PackageLoader("videoreasoner.inference.report", ""),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
