"""What was sampled, for people: records of rollouts, the best and worst of them, and a table on the terminal."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

# A log has no width of its own, and in the 80 columns that are assumed then, words are broken up.
_LOG_WIDTH = 140


@dataclass(frozen=True)
class Record:
    """One rollout with what became of it.

    Attributes:
        row, task, question: what was asked.
        completion: what was written; `tokens` of them, `finished` unless it was cut off.
        reward: weighted sum; `rewards` has each one's value (None: not concerned), `breakdown` their parts.
        advantage: against the other completions of its group.
    """

    row: str
    task: str
    question: str
    completion: str
    tokens: int
    finished: bool
    reward: float
    rewards: dict[str, float | None]
    breakdown: dict[str, Any]
    advantage: float


def best_and_worst(records: Sequence[Record], count: int) -> list[Record]:
    """The `count` records of the highest reward and the `count` of the lowest, each once, the best first."""
    ordered = sorted(records, key=lambda record: -record.reward)
    if len(ordered) <= 2 * count:
        return ordered
    return ordered[:count] + ordered[len(ordered) - count :]


def completions_table(records: Sequence[Record], step: int, count: int) -> Panel:
    """A table like TRL's `log_completions`: what was asked and written, each reward, the advantage; and the IoU."""
    table = Table(show_header=True, header_style="bold white", expand=True)
    table.add_column("Prompt", style="bright_yellow")
    table.add_column("Task", style="bright_yellow", no_wrap=True)
    table.add_column("Completion", style="bright_green")
    names = list(records[0].rewards) if records else []
    for name in names:
        table.add_column("IoU" if name == "event_iou" else name, style="bold cyan", justify="right", no_wrap=True)
    table.add_column("Advantage", style="bold magenta", justify="right", no_wrap=True)
    for record in _spread(records, count):
        values = [record.rewards[name] for name in names]
        table.add_row(
            Text(record.question),
            record.task,
            Text(record.completion, overflow="fold"),
            *("" if value is None else f"{value:.2f}" for value in values),
            f"{record.advantage:.2f}",
        )
        table.add_section()
    return Panel(table, expand=False, title=f"Step {step}", border_style="bold white")


def _spread(records: Sequence[Record], count: int) -> list[Record]:
    """Some records of each task in turn, and of each task over all rows: the first few would all be of one."""
    of_task: dict[str, list[Record]] = {}
    for record in records:
        of_task.setdefault(record.task, []).append(record)
    share = -(-count // max(1, len(of_task)))
    parts = [[own[i * len(own) // share] for i in range(min(share, len(own)))] for own in of_task.values()]
    return [record for group in itertools.zip_longest(*parts) for record in group if record is not None][:count]


def show(records: Sequence[Record], step: int, count: int) -> None:
    """Print a table of `count` rollouts of a step to stderr."""
    width = None if sys.stderr.isatty() else _LOG_WIDTH
    Console(stderr=True, width=width).print(completions_table(records, step, count))
