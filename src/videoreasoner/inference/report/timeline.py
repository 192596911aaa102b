"""The timeline of a page: positions of spans and frames, in percent of the video's length. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from videoreasoner.inference.answer import Answer
from videoreasoner.spans import Span

_STEPS_S = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400)
_MOST_TICKS = 7
# More spans than these are counted, not listed.
_LISTED = 2


@dataclass(frozen=True)
class Mark:
    """One drawn thing in a lane.

    Attributes:
        shape: what is drawn.
        left, width: percent of the video; `width` is 0 for a moment.
    """

    shape: Literal["span", "keyframe", "sparse", "dense"]
    left: float
    width: float = 0.0


@dataclass(frozen=True)
class Lane:
    """One line of the timeline.

    Attributes:
        kind: truth, event, spans, keyframes or frames.
        name, text: its label, and the same in words.
    """

    kind: str
    name: str
    text: str
    marks: tuple[Mark, ...]


@dataclass(frozen=True)
class Tick:
    """A time under the timeline, `left` percent from its start."""

    left: float
    text: str


def lanes(answer: Answer, true_events: Sequence[Span] = ()) -> list[Lane]:
    """The lanes that have something to show, from top to bottom."""
    duration_s = answer.duration_s
    events = [answer.event] if answer.event is not None else []
    made = []
    for kind, name, spans in (
        ("truth", "True event", true_events),
        ("event", "Located event", events),
        ("spans", "Key spans", answer.key_spans),
    ):
        made.append(Lane(kind, name, _listed(spans, duration_s), tuple(_span(span, duration_s) for span in spans)))
    count = len(answer.keyframes)
    keyframes = tuple(Mark("keyframe", percent(k.time_s, duration_s)) for k in answer.keyframes)
    if count > _LISTED:
        text = f"{count} found"
    else:
        text = ", ".join(clock(time_s, duration_s, 1) for time_s in sorted(k.time_s for k in answer.keyframes))
    made.append(Lane("keyframes", "Keyframes", text, keyframes))
    dense = sum(frame.dense for frame in answer.frames)
    # Dense frames are drawn last, over the sparse ones, because their marks are taller.
    frames = sorted(answer.frames, key=lambda frame: frame.dense)
    marks = tuple(Mark("dense" if f.dense else "sparse", percent(f.time_s, duration_s)) for f in frames)
    text = f"{dense} dense (tall), {len(frames) - dense} sparse" if dense else f"{len(frames)} sparse"
    made.append(Lane("frames", "Frames seen", text, marks))
    return [lane for lane in made if lane.marks]


def ticks(duration_s: float) -> list[Tick]:
    """Round times along the video, at most eight, from 0 on."""
    step = next((step for step in _STEPS_S if duration_s / step <= _MOST_TICKS), duration_s / _MOST_TICKS)
    digits = 0 if step >= 1 else 2
    count = int(duration_s / step + 1e-9) + 1
    return [Tick(percent(i * step, duration_s), clock(i * step, duration_s, digits)) for i in range(count)]


def clock(time_s: float, duration_s: float, digits: int = 2) -> str:
    """A time for people to read: `4.25 s` in a video of up to 100 seconds, else `1:04.25` or `1:01:04.25`."""
    if duration_s <= 100:
        return f"{time_s:.{digits}f} s"
    # Rounded first: 59.999 s is 1:00, not 0:60.
    units = round(time_s * 10**digits)
    whole, part = divmod(units, 10**digits)
    minutes, seconds = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    fraction = f".{part:0{digits}d}" if digits else ""
    if hours or duration_s >= 3600:
        return f"{hours}:{minutes:02d}:{seconds:02d}{fraction}"
    return f"{minutes}:{seconds:02d}{fraction}"


def _listed(spans: Sequence[Span], duration_s: float) -> str:
    if len(spans) > _LISTED:
        return f"{len(spans)} spans, {sum(span.length_s for span in spans):.1f} s together"
    return ", ".join(
        f"{clock(s.start_s, duration_s, 1).removesuffix(' s')} to {clock(s.end_s, duration_s, 1)}" for s in spans
    )


def _span(span: Span, duration_s: float) -> Mark:
    left = percent(span.start_s, duration_s)
    return Mark("span", left, percent(span.end_s, duration_s) - left)


def percent(time_s: float, duration_s: float) -> float:
    """A time as percent of the video, from 0 to 100."""
    return min(max(time_s / duration_s, 0.0), 1.0) * 100
