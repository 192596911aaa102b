"""An answer with its evidence: what was located, which frames the model saw, how long it took."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from pydantic import TypeAdapter, ValidationError

from videoreasoner.errors import RowError
from videoreasoner.retrieval.keyframes import Keyframe
from videoreasoner.spans import Span
from videoreasoner.version import __version__


@dataclass(frozen=True)
class FrameUse:
    """A frame that the final pass saw: its true time, and whether it was sampled densely in a key span."""

    time_s: float
    dense: bool


@dataclass(frozen=True)
class Usage:
    """Work done for one question, without what was already done for an earlier question about the same video."""

    frames_decoded: int
    pairs_encoded: int
    frames_searched: int
    tokens_in: int
    tokens_out: int


@dataclass(frozen=True)
class Answer:
    """The answer to one question.

    Attributes:
        text: the words of the chosen option, or what the model wrote when there is none.
        choice: letter of the chosen option; None without options, and when a written answer names none of them.
        confidence: probability of each option letter, normalised over the options; None without options, and in mode
            `think`, which reads the choice from text.
        event: the key event, or None when none was located or asked for.
        key_elements: what has to be seen, in the model's words.
        keyframes: the moment at which each key element was found.
        key_spans: the merged spans that were sampled densely.
        frames: the frames that the final pass saw.
        timing: seconds per stage, and `total`.
        settings: budgets, rates and encoder that the answer was made with.
        notes: what did not go as asked, in sentences; the warnings are among them; empty when all went well.
        warnings: why the answer, or the evidence for it, means nothing, in sentences.
        completions: what the model wrote for each task, unchanged.
        range: the part of the video that was looked at; None for all of it. All times are times of the whole video.
        version: version of this package that gave the answer.
    """

    video: str
    question: str
    options: tuple[str, ...]
    text: str
    choice: str | None
    confidence: dict[str, float] | None
    event: Span | None
    key_elements: list[str]
    keyframes: list[Keyframe]
    key_spans: list[Span]
    frames: list[FrameUse]
    timing: dict[str, float]
    usage: Usage
    mode: str
    model: str
    duration_s: float
    settings: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    completions: dict[str, str] = field(default_factory=dict)
    range: Span | None = None
    version: str = __version__

    def within(self, part: Span, duration_s: float) -> Answer:
        """The answer about a part of a video as one about the whole video: all its times move by the part's start.

        Args:
            part: the part that was asked about.
            duration_s: length of the whole video, in seconds.
        """
        by_s = part.start_s
        return replace(
            self,
            event=None if self.event is None else self.event.moved(by_s),
            keyframes=[
                replace(k, time_s=k.time_s + by_s, start_s=k.start_s + by_s, end_s=k.end_s + by_s)
                for k in self.keyframes
            ],
            key_spans=[span.moved(by_s) for span in self.key_spans],
            frames=[replace(frame, time_s=frame.time_s + by_s) for frame in self.frames],
            duration_s=duration_s,
            notes=[f"only the video from {part.start_s:g} s to {part.end_s:g} s was looked at", *self.notes],
            range=part,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Answer:
        """The answer that `to_dict` wrote, also after a round trip through JSON; further keys are ignored.

        Raises:
            RowError: the record is not one of an answer.
        """
        try:
            return TypeAdapter(cls).validate_python(dict(record))
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            raise RowError(
                f"not the record of an answer ({place}: {first['msg']}); give one of `ask --json`"
            ) from error
