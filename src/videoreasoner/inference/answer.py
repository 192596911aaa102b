"""An answer with its evidence: what was located, which frames the model saw, how long it took."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
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
    version: str = __version__

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
