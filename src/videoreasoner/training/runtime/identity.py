"""What makes two starts the same run, written as run.json. Pure functions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from videoreasoner.training.recipe import FREE_FIELDS, Recipe

# They say how long the run is. A later start may make it longer.
_LENGTH = frozenset({"steps", "recipe.max_steps", "recipe.num_train_epochs"})


def run_identity(
    recipe: Recipe,
    digests: Mapping[str, str],
    step_rows: int,
    steps: int,
    reward_sources: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The content of run.json: the recipe without the fields that may change between two starts, and the data.

    Of devices, batch and accumulation only the product counts, so that a run may be resumed on other devices.

    Args:
        digests: name of each source -> digest of its content.
        step_rows: rows of one optimizer step on all devices.
        steps: optimizer steps of the whole run.
        reward_sources: name of each reward of the user's own -> digest of its source.
    """
    content = recipe.model_dump(mode="json", exclude=set(FREE_FIELDS))
    identity = {"kind": type(recipe).__name__, "recipe": content, "data": dict(digests), "rows_a_step": step_rows}
    return identity | {"steps": steps} | ({"rewards": dict(reward_sources)} if reward_sources else {})


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Names of what differs between two identities so much that they are two runs; empty for the same run.

    The second may be longer than the first, not shorter.
    """
    free = {f"recipe.{name}" for name in FREE_FIELDS}
    if before.get("steps", -1) <= now.get("steps", -1):
        free |= _LENGTH
    return sorted({name for name, _ in _flat(before).items() ^ _flat(now).items()} - free)


def _flat(content: Any, name: str = "") -> dict[str, str]:
    if isinstance(content, dict):
        return {key: value for k, v in content.items() for key, value in _flat(v, f"{name}.{k}".lstrip(".")).items()}
    return {name: json.dumps(content)}
