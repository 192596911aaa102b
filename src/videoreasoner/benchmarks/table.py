"""Metrics as Markdown tables, for a terminal or a page."""

from __future__ import annotations

from collections.abc import Sequence

from videoreasoner.benchmarks.compare import Difference
from videoreasoner.benchmarks.results import ALL, Metrics
from videoreasoner.utils.intervals import Estimate

# Metric -> digits. Their means are no shares and are written as they are.
_AMOUNTS = {"seconds": 2, "frames": 1, "tokens_out": 1}
# A table with more groups is too wide to read.
_MOST_COLUMNS = 6


def metric_tables(metrics: Metrics) -> str:
    """One table over all questions, and one for each way of grouping them that has few enough groups."""
    tables = []
    for key, values in metrics.items():
        if len(values) > _MOST_COLUMNS:
            continue
        names = list(dict.fromkeys(name for of in values.values() for name in of))
        head = [ALL if key == ALL else key, *(f"{value} (n={_count(of)})" for value, of in values.items())]
        body = [[name, *(_cell(name, of.get(name)) for of in values.values())] for name in names]
        tables.append(_markdown(head, body))
    return "\n\n".join(tables)


def difference_table(differences: Sequence[Difference]) -> str:
    """Paired differences: of shares in percentage points, of costs over all questions only."""
    body = []
    for item in differences:
        group = ALL if item.key == ALL else f"{item.key} {item.value}"
        if item.metric in _AMOUNTS:
            if item.key != ALL:
                continue
            digits = _AMOUNTS[item.metric]
            shown = [f"{item.a:.{digits}f}", f"{item.b:.{digits}f}"]
            shown += [f"{item.paired.mean:+.{digits}f} {item.paired.interval(1, digits)}"]
        else:
            shown = [f"{100 * item.a:.1f} %", f"{100 * item.b:.1f} %", item.paired.points()]
        body.append([group, item.metric, *shown, str(item.paired.count)])
    return _markdown(["questions", "metric", "A", "B", "B - A, paired", "n"], body)


def _count(of: dict[str, Estimate]) -> int:
    return max((e.count for e in of.values()), default=0)


def _cell(name: str, value: Estimate | None) -> str:
    if value is None:
        return ""
    if name in _AMOUNTS:
        digits = _AMOUNTS[name]
        return f"{value.mean:.{digits}f} {value.interval(1, digits)}"
    return value.share() if name.startswith("event_iou") else value.percent()


def _markdown(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    widths = [max(len(line[i]) for line in (head, *body)) for i in range(len(head))]
    lines = [head, ["-" * width for width in widths], *body]
    return "\n".join("| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in lines)
