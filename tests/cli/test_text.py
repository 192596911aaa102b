from __future__ import annotations

from dataclasses import replace

from videoreasoner.cli.text import describe, protocol_line, timeline
from videoreasoner.inference.answer import Answer, FrameUse, Usage
from videoreasoner.retrieval.keyframes import Keyframe
from videoreasoner.spans import Span

ANSWER = Answer(
    video="v.mp4",
    question="?",
    options=("red", "blue"),
    text="blue",
    choice="B",
    confidence={"A": 0.125, "B": 0.875},
    event=Span(2.0, 4.0),
    key_elements=["a ball", "a cat"],
    keyframes=[Keyframe(3.0, "a ball", 0.5, 2.5, 3.5), Keyframe(9.0, "a cat", 0.25, 8.5, 9.5)],
    key_spans=[Span(2.0, 4.0)],
    frames=[FrameUse(0.5, False), FrameUse(3.0, True), FrameUse(3.4, False), FrameUse(9.9, False)],
    timing={"decode": 0.5, "total": 1.0},
    usage=Usage(4, 2, 10, 100, 5),
    mode="focus",
    model="tiny",
    duration_s=10.0,
    settings={},
    notes=["the video is damaged"],
)


def test_the_timeline_shows_event_keyframes_and_frames() -> None:
    assert timeline(ANSWER, width=10) == [
        "  event     |  ===     |",
        "  keyframes |   ^     ^|",
        "  frames    |:  #     :|",
    ]


def test_a_line_of_the_timeline_that_is_empty_is_left_out() -> None:
    assert timeline(replace(ANSWER, event=None, keyframes=[]), width=10) == ["  frames    |:  #     :|"]


def test_an_answer_is_described_with_its_evidence() -> None:
    lines = describe(ANSWER).splitlines()
    assert lines[:4] == [
        "Answer        B. blue   (probability 0.88)",
        "Event         2.0 s to 4.0 s of 10.0 s",
        "Key elements  a ball, a cat",
        "Keyframes     3.0 s  a ball (similarity 0.50)",
    ]
    assert "Frames        4, of which 1 densely in key spans" in lines
    assert lines[-2:] == ["Time          decode 0.50 s, total 1.00 s", "Note          the video is damaged"]


def test_a_thought_is_shown_and_wrapped() -> None:
    words = "It is seen again and again. " * 10
    thought = replace(ANSWER, confidence=None, completions={"think": f"{words}</think> blue"})
    lines = describe(thought).splitlines()
    assert lines[0] == "Answer        B. blue"
    assert lines[1].startswith("Reasoning     It is seen")
    assert lines[2].startswith(" " * 14 + "is seen")
    assert max(map(len, lines)) <= 100


def test_a_protocol_is_named_with_what_differs_from_it() -> None:
    paper = {"protocol": "paper", "frame_budget": 16, "protocol_changes": {"frame_budget": 64}}
    assert "Protocol      paper, with frame_budget 16 (not 64)" in describe(replace(ANSWER, settings=paper))
    assert protocol_line({**paper, "protocol_changes": {}}) == "paper"
    assert protocol_line({"protocol": "native"}) == protocol_line({}) == ""
