"""Which starts are the same run."""

from __future__ import annotations

import json
from typing import Any

import pytest

from videoreasoner.training.recipe import FREE_FIELDS, ColdStartRecipe, parse_recipe
from videoreasoner.training.runtime.identity import differences, run_identity


def identity(steps: int = 10, digest: str = "a", rewards: dict[str, str] | None = None, **changes: Any) -> Any:
    content = {"model_name_or_path": "m", "output_dir": "o", "data": [{"path": "d"}]}
    recipe = parse_recipe({**content, **changes}, ColdStartRecipe)
    # As it comes back from the file.
    return json.loads(json.dumps(run_identity(recipe, {"d": digest}, 16, steps, rewards)))


def test_the_same_start_is_the_same_run() -> None:
    assert differences(identity(), identity()) == []
    assert differences(identity(), identity(save_steps=7, output_dir="elsewhere")) == []
    assert {"output_dir", "save_steps"} <= FREE_FIELDS


@pytest.mark.parametrize(
    ("other", "names"),
    [
        (identity(learning_rate=1.0), ["recipe.learning_rate"]),
        (identity(digest="b"), ["data.d"]),
        (identity(rewards={"mine": "b"}), ["rewards.mine"]),
        (identity(steps=20, num_train_epochs=2.0, seed=1), ["recipe.seed"]),
    ],
)
def test_another_recipe_or_other_data_are_another_run(other: Any, names: list[str]) -> None:
    assert differences(identity(rewards={"mine": "a"} if "rewards" in other else None), other) == names


def test_a_run_may_become_longer_but_not_shorter() -> None:
    short, long = identity(10, max_steps=10), identity(20, max_steps=20)
    assert differences(short, long) == []
    assert differences(long, short) == ["recipe.max_steps", "steps"]
    assert differences(identity(10, num_train_epochs=1.0), identity(30, max_steps=30)) == []
