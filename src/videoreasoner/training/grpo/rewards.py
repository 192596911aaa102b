"""Rewards: how good a sampled completion is, by what can be checked.

A reward function has TRL's signature, so that one written for TRL works here: lists in, one value a completion out,
`None` for a completion of a task that it does not concern.

    def my_reward(prompts, completions, completion_ids, **columns) -> list[float | None]

`columns` holds one list for each field of the rows, unknown fields included, and `task` ("event", "key_elements",
"answer", "think"). `event` is a list of `Span`s in seconds, `duration` the length of the video in seconds, `video` its
path. A value may be a `Reward`, a float that carries what it is made of.

The paper adds IoU, format and accuracy without weights (section "Multi-task GRPO"). `scoring.py` says how a completion
is read and scored. Differences from the published code: a span that is reversed, empty or outside the video gets 0, for
the format as well; a row may have several spans, and the best fitting one counts; an answer is read as a letter, as an
option's words, as a number or as text, where the published code compares first characters.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from videoreasoner.errors import RewardError, SettingError, VideoError
from videoreasoner.rows import Row
from videoreasoner.scoring import Score, score_completion
from videoreasoner.spans import Span
from videoreasoner.tasks import Task, judged_by


class Reward(float):
    """A value with the parts that it is made of. It can be used as a plain float."""

    breakdown: dict[str, Any]

    def __new__(cls, value: float, **breakdown: Any) -> Reward:
        made = super().__new__(cls, value)
        made.breakdown = breakdown
        return made


class RewardFunction(Protocol):
    """See the module."""

    def __call__(
        self,
        prompts: list[str],
        completions: list[str],
        completion_ids: list[list[int]],
        **columns: list[Any],
    ) -> Sequence[float | None]: ...


@dataclass(frozen=True)
class TaskReward:
    """A reward function made from the score of one completion (`scoring.score_completion`).

    Attributes:
        tasks: the tasks that it concerns; completions of other tasks get None.
        reference_field: the row field with the ground truth, named by its task.
        reward: turns a score into the reward; None where the row has no reference.
    """

    tasks: tuple[Task, ...]
    reference_field: Task
    reward: Callable[[Score], Reward | None]

    def __call__(
        self,
        prompts: list[str],
        completions: list[str],
        completion_ids: list[list[int]],
        **columns: list[Any],
    ) -> list[Reward | None]:
        rewards: list[Reward | None] = []
        for i, text in enumerate(completions):
            task = columns["task"][i]
            if task not in self.tasks:
                rewards.append(None)
                continue
            known = {name: columns[name][i] if name in columns else None for name in ("event", "options", "answer")}
            rewards.append(self.reward(score_completion(_Reference(**known), Task(task), text, columns["duration"][i])))
        return rewards


@dataclass(frozen=True)
class _Reference:
    """The fields of a row that a completion is scored against."""

    event: Sequence[Span] | None
    options: Sequence[str] | None
    answer: str | None


def _event_iou(score: Score) -> Reward | None:
    if score.value is None:
        return None
    if score.event is None:
        return Reward(0.0, parsed=False)
    return Reward(score.value, parsed=True, start_s=score.event.start_s, end_s=score.event.end_s)


def _event_format(score: Score) -> Reward:
    """1 when exactly one span can be read, in order and inside the video."""
    return Reward(float(score.is_parsed))


def _accuracy(score: Score) -> Reward | None:
    if score.value is None:
        return None
    breakdown = {"choice": score.choice} if score.read_as == "choice" else {}
    return Reward(score.value, read_as=score.read_as, **breakdown)


event_iou = TaskReward((Task.EVENT,), Task.EVENT, _event_iou)
event_format = TaskReward((Task.EVENT,), Task.EVENT, _event_format)
accuracy = TaskReward((Task.ANSWER, Task.THINK), Task.ANSWER, _accuracy)

SHIPPED: dict[str, TaskReward] = {"event_iou": event_iou, "event_format": event_format, "accuracy": accuracy}
# This reward needs an encoder and the videos; see retrieval_reward.py.
KEY_ELEMENT_RETRIEVAL = "key_element_retrieval"
# Reward -> the tasks that it concerns, and the row field that it reads.
_CONCERNS = {
    **{name: (reward.tasks, reward.reference_field) for name, reward in SHIPPED.items()},
    KEY_ELEMENT_RETRIEVAL: ((Task.KEY_ELEMENTS,), Task.EVENT),
}


def reference_fields(rewards: Iterable[str], task: Task) -> frozenset[Task]:
    """The row fields that the rewards of a task read: a row needs one of them to be asked the task.

    What a user's own reward reads is not known. Where no shipped reward concerns the task, it is taken to be the field
    that usually judges the task.

    Args:
        rewards: names as in `load_rewards`.
    """
    concerned = [_CONCERNS[name] for name in rewards if name in _CONCERNS]
    return frozenset(field for tasks, field in concerned if task in tasks) or frozenset({judged_by(task)})


@dataclass(frozen=True, eq=False)
class RewardScores:
    """What the rewards say about the completions of one row.

    Attributes:
        totals: the weighted sum for each completion; NaN when no reward concerns it.
        each: for each reward, its value for each completion; None where it is not concerned.
        breakdowns: for each completion, the parts that its rewards named, as `reward/part`.
    """

    totals: list[float]
    each: dict[str, list[float | None]]
    breakdowns: list[dict[str, Any]]


@dataclass(frozen=True, eq=False)
class Rewards:
    """The reward functions of a recipe, with their weights.

    Attributes:
        functions: by the name that they have in metrics and errors.
        weights: the same names; the paper's are all 1.
    """

    functions: Mapping[str, RewardFunction]
    weights: Mapping[str, float]

    def check_tasks(self, tasks: Sequence[Task]) -> None:
        """Refuse tasks that no reward concerns. A function without `tasks` may concern any task.

        Raises:
            SettingError: a task would be sampled for nothing.
        """
        declared = [getattr(function, "tasks", None) for function in self.functions.values()]
        alone = [task for task in tasks if not any(concerned is None or task in concerned for concerned in declared)]
        if alone:
            raise SettingError(
                f"no reward of the recipe ({', '.join(self.functions)}) concerns the task {', '.join(alone)}; "
                "add a reward for it to `rewards`, or take it out of `tasks`"
            )

    def score(
        self,
        row: Row,
        duration_s: float,
        video: str,
        tasks: Sequence[Task],
        prompts: Sequence[str],
        completions: Sequence[str],
        completion_ids: Sequence[Sequence[int]],
    ) -> RewardScores:
        """Score all completions of one row; the three lists after it have one entry a completion.

        Rows are scored one by one: an error can name its row, and no reward depends on the other rows of the batch.

        Raises:
            VideoError: a function cannot read the video; the message names the function.
            RewardError: a function raises anything else, returns another number of values, or one that is not finite;
                or no function concerns a completion.
        """
        count = len(completions)
        fields = {name: getattr(row, name) for name in Row.model_fields} | (row.model_extra or {})
        columns = {name: [value] * count for name, value in fields.items()}
        columns |= {"task": list(tasks), "duration": [duration_s] * count, "video": [video] * count}
        each: dict[str, list[float | None]] = {}
        totals = [math.nan] * count
        breakdowns: list[dict[str, Any]] = [{} for _ in completions]
        for name, function in self.functions.items():
            try:
                values = list(
                    function(
                        prompts=list(prompts),
                        completions=list(completions),
                        completion_ids=[list(ids) for ids in completion_ids],
                        **columns,
                    )
                )
            except VideoError as error:
                raise VideoError(f"reward {name}: {error}") from error
            except MemoryError:
                raise
            except Exception as error:
                raise RewardError(
                    f"reward {name}, row {row.id}: raised {type(error).__name__}: {error}; "
                    "correct the function, or take it out of `rewards`"
                ) from error
            each[name] = _checked(values, count, f"reward {name}, row {row.id}")
            for i, value in enumerate(values):
                if value is None:
                    continue
                totals[i] = self.weights[name] * float(value) + (0.0 if math.isnan(totals[i]) else totals[i])
                for part, amount in getattr(value, "breakdown", {}).items():
                    breakdowns[i][f"{name}/{part}"] = amount
        for task, total in zip(tasks, totals, strict=True):
            if math.isnan(total):
                raise RewardError(
                    f"row {row.id}: no reward ({', '.join(self.functions)}) concerns its completion of the task "
                    f"{task}; add one to `rewards`, or take the task out of `tasks`"
                )
        return RewardScores(totals, each, breakdowns)


def _checked(values: Sequence[Any], count: int, place: str) -> list[float | None]:
    if len(values) != count:
        raise RewardError(f"{place}: returned {len(values)} values for {count} completions; return one for each")
    numbers: list[float | None] = []
    for value in values:
        try:
            # float() also takes the scalars of numpy and torch.
            number = None if value is None else float(value)
        except (TypeError, ValueError):
            number = math.nan
        if number is not None and not math.isfinite(number):
            raise RewardError(f"{place}: returned {value!r}; return a finite number, or None for another task")
        numbers.append(number)
    return numbers


def load_rewards(weights: Mapping[str, float], more: Mapping[str, RewardFunction] | None = None) -> Rewards:
    """The reward functions that a recipe names.

    Args:
        weights: name -> weight. A name is one of the shipped ones, `package.module.function`, or
            `path/to/file.py:function`.
        more: further functions that go by a name of their own, such as the one that needs an encoder.

    Raises:
        SettingError: there is no reward, one cannot be loaded, or two have the same name.
    """
    known: dict[str, RewardFunction] = {**SHIPPED, **(more or {})}
    if not weights:
        raise SettingError(f"rewards: name at least one, such as {', '.join(SHIPPED)}")
    functions: dict[str, RewardFunction] = {}
    by_name: dict[str, float] = {}
    for spec, weight in weights.items():
        if not math.isfinite(weight):
            raise SettingError(f"rewards: the weight of {spec} is {weight}; give a finite number")
        name = spec if spec in known else re.split(r"[.:]", spec)[-1]
        if name in functions:
            raise SettingError(f"rewards: two functions are called {name}; rename one")
        functions[name] = known[spec] if spec in known else _load(spec, sorted(known))
        by_name[name] = weight
    return Rewards(functions, by_name)


def _load(spec: str, known: Sequence[str]) -> RewardFunction:
    place, _, name = spec.rpartition(":" if ":" in spec else ".")
    if not place or not name:
        raise SettingError(
            f"rewards: {spec!r} is none of {', '.join(known)}; name one of these, package.module.function, "
            "or path/to/file.py:function"
        )
    try:
        module = _module_of_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    except Exception as error:
        raise SettingError(f"rewards: {spec}: cannot be loaded ({type(error).__name__}: {error})") from error
    function = getattr(module, name, None)
    if not callable(function):
        raise SettingError(f"rewards: {spec}: {place} has no function {name}")
    return function


def _module_of_file(path: Path) -> Any:
    # A name of its own, so that a file called as a module is does not take that module's place.
    name = f"reward_file:{path.resolve()}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise FileNotFoundError(f"no such Python file: {path}")
    module = importlib.util.module_from_spec(spec)
    # Before it runs: a dataclass looks for the module that it is made in.
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
