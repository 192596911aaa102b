"""An answer as text for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

from videoreasoner.inference.answer import Answer
from videoreasoner.protocols import NATIVE
from videoreasoner.tasks import Task, parse_thought
from videoreasoner.utils.terminal import say

_WIDTH = 60
_TEXT_WIDTH = 100


def timeline(answer: Answer, width: int = _WIDTH) -> list[str]:
    """Three lines over the video's length: event, keyframes, and frames seen (`:` sparse, `#` dense)."""

    def cell(time_s: float) -> int:
        return min(width - 1, max(0, int(time_s / answer.duration_s * width)))

    event, keys, seen = ([" "] * width for _ in range(3))
    if answer.event is not None:
        for i in range(cell(answer.event.start_s), cell(answer.event.end_s) + 1):
            event[i] = "="
    for keyframe in answer.keyframes:
        keys[cell(keyframe.time_s)] = "^"
    for frame in answer.frames:
        at = cell(frame.time_s)
        seen[at] = "#" if frame.dense or seen[at] == "#" else ":"
    rows = [("event", event), ("keyframes", keys), ("frames", seen)]
    return [f"  {name:<10}|{''.join(cells)}|" for name, cells in rows if "".join(cells).strip()]


def print_warnings(answer: Answer) -> None:
    """One line on stderr for each warning of an answer."""
    for warning in answer.warnings:
        say(f"Warning: {warning}", to_stderr=True)


def describe(answer: Answer) -> str:
    """The answer and its evidence, at most about a screenful. Warnings are left out; they belong on stderr."""
    lines = []
    letter = "" if answer.choice is None else f"{answer.choice}. "
    sure = ""
    if answer.choice is not None and answer.confidence is not None:
        sure = f"   (probability {answer.confidence[answer.choice]:.2f})"
    lines.append(f"Answer        {letter}{answer.text}{sure}")
    # A thought without an answer after it was already printed as the text of the answer.
    if thought := parse_thought(answer.completions.get(Task.THINK, "")):
        indent = " " * 14
        wrapped = textwrap.fill(thought[0], _TEXT_WIDTH, initial_indent=indent, subsequent_indent=indent)
        lines.append(f"Reasoning     {wrapped.strip()}")
    if answer.event is not None:
        lines.append(
            f"Event         {answer.event.start_s:.1f} s to {answer.event.end_s:.1f} s of {answer.duration_s:.1f} s"
        )
    if answer.key_elements:
        lines.append(f"Key elements  {', '.join(answer.key_elements)}")
    for i, keyframe in enumerate(answer.keyframes):
        label = "Keyframes" if i == 0 else ""
        lines.append(f"{label:<14}{keyframe.time_s:.1f} s  {keyframe.element} (similarity {keyframe.score:.2f})")
    dense = sum(frame.dense for frame in answer.frames)
    lines.append(f"Frames        {len(answer.frames)}, of which {dense} densely in key spans")
    lines += timeline(answer)
    stages = ", ".join(f"{name} {s:.2f} s" for name, s in answer.timing.items())
    lines.append(f"Time          {stages}")
    if protocol := protocol_line(answer.settings):
        lines.append(f"Protocol      {protocol}")
    lines += [f"Note          {note}" for note in answer.notes if note not in answer.warnings]
    return "\n".join(lines)


def protocol_line(settings: Mapping[str, Any]) -> str:
    """The protocol of some settings, and what differs from it; empty for the settings of the checkpoint.

    Args:
        settings: those of an answer or of a run.
    """
    name = settings.get("protocol", NATIVE)
    if name == NATIVE:
        return ""
    changes = [f"{field} {settings[field]} (not {wanted})" for field, wanted in settings["protocol_changes"].items()]
    return f"{name}, with {', '.join(changes)}" if changes else name
