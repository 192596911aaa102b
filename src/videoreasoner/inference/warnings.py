"""What a checkpoint was never taught, and what an answer of it is then worth. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from videoreasoner.inference.query import Mode
from videoreasoner.settings import Settings
from videoreasoner.tasks import Task

# What the stages of the shipped checkpoints taught, by their kind of training examples.
_TAUGHT_BY = {
    "tasks": frozenset({Task.EVENT, Task.KEY_ELEMENTS, Task.ANSWER}),
    "moments": frozenset({Task.EVENT, Task.KEY_ELEMENTS, Task.ANSWER}),
}
# A recipe is recorded without the fields that have their defaults.
_DEFAULT_TASKS = (Task.EVENT, Task.ANSWER)


def trained_tasks(training: Mapping[str, Any]) -> frozenset[Task]:
    """The tasks that a checkpoint was trained on, by the record of its training.

    Args:
        training: `Settings.training`; a record of a run holds that of the weights it began with under "before".
    """
    known: set[Task] = set()
    while isinstance(training, Mapping) and training:
        recipe = training.get("recipe")
        if isinstance(recipe, Mapping):
            named = recipe.get("tasks", _DEFAULT_TASKS)
            known |= {task for task in Task if task in named}
        stages = training.get("stages")
        for stage in stages if isinstance(stages, list) else ():
            # Earlier versions wrote the kind under another name.
            kind = stage.get("examples", stage.get("lessons")) if isinstance(stage, Mapping) else None
            known |= _TAUGHT_BY.get(kind, frozenset()) if isinstance(kind, str) else frozenset()
        training = training.get("before", {})
    return frozenset(known)


def untrained_warnings(settings: Settings, model: str, mode: Mode) -> list[str]:
    """Why what a mode asks of a model means nothing, because the model was never trained on it.

    Args:
        settings: those of the model.
        model: its name.
        mode: as asked.
    """
    known = trained_tasks(settings.training)
    if mode == "focus" and Task.EVENT not in known:
        return [
            f"{model} was never trained to locate, so its event and its key elements mean nothing. "
            "Use --mode direct, or train it (docs/training.md)."
        ]
    if mode == "think" and Task.THINK not in known:
        return [
            f"{model} was never trained to reason in text, so what it writes may be empty or mean nothing. "
            "Use --mode direct or focus, or train it on the task think (docs/training.md)."
        ]
    return []
