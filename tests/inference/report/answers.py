"""Answers to lay out: a usual one, and the odd ones."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from videoreasoner.inference.answer import Answer, FrameUse, Usage
from videoreasoner.retrieval.keyframes import Keyframe
from videoreasoner.rows import Row
from videoreasoner.spans import Span
from videoreasoner.tasks import LETTERS

DURATION_S = 2.0
MARKUP = '<script>alert("1")</script> <b onclick="x()">bold</b> &amp; {{ 7 * 7 }}'
# In a file name, a slash would start another folder.
MARKUP_NAME = "<i onclick=x()>video &amp; one"

ANSWER = Answer(
    video="video.mp4",
    question="What color is the circle?",
    options=("red", "blue"),
    text="blue",
    choice="B",
    confidence={"A": 0.125, "B": 0.875},
    event=Span(0.5, 1.0),
    key_elements=["circle", "black dot"],
    keyframes=[Keyframe(0.72, "circle", 0.53, 0.6, 0.8), Keyframe(0.6, "black dot", 0.31, 0.6, 0.6)],
    key_spans=[Span(0.5, 1.0)],
    frames=[FrameUse(t / 10, 5 <= t <= 10) for t in range(20)],
    timing={"decode": 0.1, "generate": 0.25, "total": 0.4},
    usage=Usage(20, 10, 2, 12_345, 20),
    mode="focus",
    model="tiny",
    duration_s=DURATION_S,
    settings={"frame_budget": 20, "encoder": None},
    completions={"event": "<|event_start|>[0.25, 0.50]<|event_end|>", "key_elements": "circle", "answer": "blue"},
)
TRUTH = Row.model_validate(
    {
        "id": "row",
        "video": "video.mp4",
        "question": ANSWER.question,
        "options": list(ANSWER.options),
        "answer": "B",
        "event": [0.75, 1.25],
    }
)
DIRECT: dict[str, Any] = {
    "mode": "direct",
    "event": None,
    "key_elements": [],
    "keyframes": [],
    "key_spans": [],
    "frames": [FrameUse(t / 10, False) for t in range(20)],
    "completions": {"answer": "blue"},
}
THINK: dict[str, Any] = {
    **DIRECT,
    "mode": "think",
    "confidence": None,
    "completions": {"think": "0.25 to 0.50: a red circle that flashes blue. </think> blue"},
}
CASES: dict[str, Answer] = {
    name: replace(ANSWER, **changes)
    for name, changes in {
        "usual": {},
        "direct": DIRECT,
        "think": THINK,
        "think without an answer": {
            **THINK,
            "choice": None,
            "text": "It may be red. " * 200,
            "notes": ["the reasoning ends without an answer"],
            "completions": {"think": "It may be red. " * 200},
        },
        "no options": {"options": (), "choice": None, "confidence": None, "text": "A circle turns blue. " * 20},
        "nothing written": {"options": (), "choice": None, "confidence": None, "text": ""},
        "26 options": {
            "options": tuple(f"option number {i} " * 5 for i in range(26)),
            "confidence": dict.fromkeys(LETTERS, 1 / 26),
            "choice": "Z",
        },
        "no event": {"event": None, "notes": ["no readable interval was written for the event"]},
        "event at the end": {"event": Span(DURATION_S - 1e-9, DURATION_S)},
        "one keyframe": {"keyframes": ANSWER.keyframes[:1]},
        "200 keyframes": {"keyframes": [Keyframe(i / 100, f"element {i}", 0.1, 0, 1) for i in range(200)]},
        "200 key spans": {"key_spans": [Span(i / 100, i / 100 + 0.005) for i in range(200)]},
        "long question": {"question": "Why does this go on? " * 900},
        "one very long word": {"question": "x" * 2_000, "text": "y" * 2_000, "options": (), "confidence": None},
        "markup": {
            "question": MARKUP,
            "options": (MARKUP, f"{MARKUP} too"),
            "text": f"{MARKUP} too",
            "video": f"/videos/{MARKUP_NAME}.mp4",
            "key_elements": [MARKUP],
            "keyframes": [Keyframe(0.72, MARKUP, 0.5, 0.6, 0.8)],
            "notes": [MARKUP],
            "completions": {"answer": MARKUP},
            "model": MARKUP,
            "settings": {"encoder": MARKUP},
        },
        "odd characters": {
            "question": "Où \u2028 \ud800 \u4f60 \0 \u202e \u05d0?",
            "options": ("a\nb\nc", "\U0001f600"),
        },
        "no frames": {"frames": []},
        "one frame": {"frames": [FrameUse(0.0, False)]},
        "one frame twice": {"frames": [FrameUse(0.0, False), FrameUse(0.0, False)]},
        "many notes": {"notes": [f"note {i} " * 30 for i in range(60)]},
        "an hour": {"duration_s": 3725.5, "event": Span(3000.0, 3100.0)},
        "no time at all": {"timing": {"total": 0.0}},
    }.items()
}
