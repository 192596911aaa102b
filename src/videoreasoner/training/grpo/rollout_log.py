"""Rollouts for people to look at: the best and worst of a step, a table on the terminal, and a warning about zeros."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from accelerate.utils import gather_object
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text
from transformers import TrainingArguments

from videoreasoner.training.grpo.recipe import GrpoRecipe
from videoreasoner.training.runtime.folder import RunFolder
from videoreasoner.utils.terminal import printable

_LOG_WIDTH = 140
_WATCHED = ("reward/", "parse_rate/")


@dataclass(frozen=True)
class RolloutRecord:
    """One rollout with its rewards.

    Attributes:
        row, task, question: what was asked.
        completion: what was written.
        tokens: its length; `finished` is False when it was cut off at the limit.
        reward: the weighted sum. `rewards` has the value of each reward (None: it does not concern the task), and
            `breakdown` their parts.
        advantage: relative to the other completions of its group.
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


def best_and_worst(records: Sequence[RolloutRecord], count: int) -> list[RolloutRecord]:
    """The `count` records of the highest reward and the `count` of the lowest, each once, the best first."""
    ordered = sorted(records, key=lambda record: -record.reward)
    if len(ordered) <= 2 * count:
        return ordered
    return ordered[:count] + ordered[len(ordered) - count :]


def completions_table(records: Sequence[RolloutRecord], step: int, count: int) -> Panel:
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
            Text(printable(record.question)),
            record.task,
            Text(printable(record.completion), overflow="fold"),
            *("" if value is None else f"{value:.2f}" for value in values),
            f"{record.advantage:.2f}",
        )
        table.add_section()
    return Panel(table, expand=False, title=f"Step {step}", border_style="bold white")


def _spread(records: Sequence[RolloutRecord], count: int) -> list[RolloutRecord]:
    """Some records of each task, taken evenly over all rows; the first few records would all be of one row."""
    of_task: dict[str, list[RolloutRecord]] = {}
    for record in records:
        of_task.setdefault(record.task, []).append(record)
    share = -(-count // max(1, len(of_task)))
    parts = [[own[i * len(own) // share] for i in range(min(share, len(own)))] for own in of_task.values()]
    return [record for group in itertools.zip_longest(*parts) for record in group if record is not None][:count]


class RolloutLog:
    """Shows and keeps rollouts: a table on stderr at logged steps, the best and worst of each step in rollouts.jsonl.

    Args:
        recipe: `log_completions`, `num_completions_to_print`, `recorded_rollouts` and `num_iterations` of it are read.
        args: transformers' settings.
    """

    def __init__(self, recipe: GrpoRecipe, folder: RunFolder, args: TrainingArguments) -> None:
        self.recipe, self.folder, self.args = recipe, folder, args

    def write(self, step: int, records: Sequence[RolloutRecord]) -> None:
        """Show and keep the rollouts of a step. Every process must call this."""
        recipe, is_main = self.recipe, self.args.should_save
        # The next logged step may be a later one on the same rollouts.
        is_logged = -step % self.args.logging_steps < recipe.num_iterations
        if recipe.log_completions and is_main and is_logged:
            # A log has no width, and the 80 columns that are assumed then would break words.
            console = Console(stderr=True, width=None if sys.stderr.isatty() else _LOG_WIDTH)
            console.print(completions_table(records, step, recipe.num_completions_to_print))
        count = recipe.recorded_rollouts
        gathered = gather_object(best_and_worst(records, count)) if count else []
        if count and is_main:
            lines = [{"step": step, **asdict(record)} for record in best_and_worst(gathered, count)]
            self.folder.append("rollouts.jsonl", *lines)


class ZeroRewardAlarm:
    """Warns early of a reward or a parse rate that stays at zero, which would otherwise be noticed hours later.

    Args:
        steps: how long a metric may stay at zero.
        is_resumed: the run began in an earlier start. Then nothing is watched, since its first steps are not known.
    """

    def __init__(self, steps: int, is_resumed: bool = False) -> None:
        self.steps = steps
        self._highest: dict[str, float] = {}
        self._is_over = is_resumed

    def update(self, step: int, metrics: Mapping[str, float]) -> list[str]:
        """Messages about rewards and parse rates that were 0 in every one of the first steps; each is given once."""
        if self._is_over:
            return []
        for name, value in metrics.items():
            if name.startswith(_WATCHED):
                self._highest[name] = max(self._highest.get(name, 0.0), value)
        if step < self.steps:
            return []
        self._is_over = True
        return [
            f"{name} was 0 in all of the first {step} steps, so nothing is learned from it; look at "
            "rollouts.jsonl, and at whether the cold start taught the format"
            for name, highest in self._highest.items()
            if highest == 0
        ]
