"""Scores that any row with its truth allows. Pure; what cannot be parsed scores 0."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from videoreasoner.rows import Row
from videoreasoner.spans import Span, best_iou
from videoreasoner.tasks import Task, parse_choice, parse_event, parse_key_elements, stated_answer
from videoreasoner.utils.intervals import recall_at

IOU_THRESHOLDS = (0.3, 0.5, 0.7)


def written_choice(row: Row, completions: Mapping[str, str]) -> str | None:
    """The letter of the option that the model's own text names; of a thought, the text behind the reasoning."""
    task = Task.THINK if Task.THINK in completions else Task.ANSWER
    return parse_choice(stated_answer(task, completions[task]) or "", row.options or ())


def answer_scores(row: Row, answer: Mapping[str, Any]) -> dict[str, float]:
    """`answer`: the option with the highest probability is right; never unparsed, because it is not read from text.

    `answer_written`: the option that the model's own text names is right; `answer_parsed`: it names one at all.
    In mode `think` no option is scored, so that `answer` is what was written too. Empty without options or without
    the truth.
    """
    if row.answer is None or not row.options:
        return {}
    written = written_choice(row, answer["completions"])
    return {
        "answer": float(answer["choice"] == row.answer),
        "answer_written": float(written == row.answer),
        "answer_parsed": float(written is not None),
    }


def event_scores(row: Row, answer: Mapping[str, Any]) -> dict[str, float]:
    """`event_iou` with the true event that fits best, `event_r@T`: it reaches T, `event_parsed`: there is one to read.

    Empty where no event was asked for, as in `direct`, or without the truth.
    """
    if row.event is None or Task.EVENT not in answer["completions"]:
        return {}
    found = parse_event(answer["completions"][Task.EVENT], answer["duration_s"])
    overlap = best_iou(found, row.event)
    recalls = {f"event_r@{threshold}": recall_at([overlap], threshold)[0] for threshold in IOU_THRESHOLDS}
    return {"event_iou": overlap, **recalls, "event_parsed": float(found is not None)}


def key_element_scores(row: Row, answer: Mapping[str, Any]) -> dict[str, float]:
    """`key_elements`: share of the true ones that are named, in these words; `key_elements_parsed`: any is named.

    `keyframes_in_event`: share of the keyframes that lie in a true event, 0 without keyframes; not there when no
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
    if row.event is not None and answer["settings"]["encoder"] not in (None, "none"):
        scores["keyframes_in_event"] = _share_inside([k["time_s"] for k in answer["keyframes"]], row.event)
    return scores


def _share_inside(times_s: Sequence[float], spans: Sequence[Span]) -> float:
    if not times_s:
        return 0.0
    return sum(any(span.contains(time_s) for span in spans) for time_s in times_s) / len(times_s)
