"""Scores of a whole answer, for any row with its truth: metric -> value. An answer that cannot be parsed scores 0."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from videoreasoner.rows import Row
from videoreasoner.scoring import Score, reference_events, score_completion
from videoreasoner.tasks import Task, parse_key_elements

IOU_THRESHOLDS = (0.3, 0.5, 0.7)


def written_answer(row: Row, answer: Mapping[str, Any]) -> Score:
    """The score of the model's own text; of a thought, the text after the reasoning counts."""
    task = Task.THINK if Task.THINK in answer["completions"] else Task.ANSWER
    return score_completion(row, task, answer["completions"][task], answer["duration_s"])


def answer_scores(row: Row, answer: Mapping[str, Any]) -> dict[str, float]:
    """Whether the answer is right. Empty without a true answer.

    `answer`: with options, the option with the highest probability is right. It does not depend on parsing, so it
    always exists. In mode `think` no option is scored, so `answer` is the written answer, as without options.
    `answer_written`: what the model wrote is right. `answer_parsed`: it can be read, with options as one of them.
    """
    if row.answer is None:
        return {}
    written = written_answer(row, answer)
    value = written.value or 0.0
    return {
        "answer": float(answer["choice"] == row.answer) if row.options else value,
        "answer_written": value,
        "answer_parsed": float(written.is_parsed),
    }


def event_scores(row: Row, answer: Mapping[str, Any]) -> dict[str, float]:
    """How well the event was found. Empty when no event was asked for, as in mode `direct`, or without a true event.

    `event_iou`: IoU with the true event that fits best. `event_r@T`: the IoU reaches T (R@1). `event_parsed`: there is
    an event that can be read.
    """
    if Task.EVENT not in answer["completions"]:
        return {}
    score = score_completion(row, Task.EVENT, answer["completions"][Task.EVENT], answer["duration_s"])
    if score.value is None:
        return {}
    recalls = {f"event_r@{threshold}": float(score.value >= threshold) for threshold in IOU_THRESHOLDS}
    return {"event_iou": score.value, **recalls, "event_parsed": float(score.is_parsed)}


def key_element_scores(row: Row, answer: Mapping[str, Any]) -> dict[str, float]:
    """How well the key elements were named and found. Empty when none were asked for.

    `key_elements`: share of the true ones that are named, in these words. `key_elements_parsed`: any is named.
    `keyframes_in_event`: share of the keyframes that lie in a true event, 0 without keyframes; left out when no
    text-image encoder looked for them.
    """
    if Task.KEY_ELEMENTS not in answer["completions"]:
        return {}
    scores: dict[str, float] = {}
    named = {element.casefold() for element in parse_key_elements(answer["completions"][Task.KEY_ELEMENTS])}
    if row.key_elements is not None:
        true = {element.casefold() for element in row.key_elements}
        scores["key_elements"] = len(true & named) / len(true)
        scores["key_elements_parsed"] = float(bool(named))
    events = reference_events(row, answer["duration_s"])
    if events and answer["settings"]["encoder"] not in (None, "none"):
        times_s = [keyframe["time_s"] for keyframe in answer["keyframes"]]
        inside = [any(event.contains(time_s) for event in events) for time_s in times_s]
        scores["keyframes_in_event"] = sum(inside) / len(inside) if inside else 0.0
    return scores
