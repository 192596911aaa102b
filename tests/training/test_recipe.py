"""Recipes: unknown keys name the nearest one, and what the command line says wins."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.toy import recipe_content, write_recipe
from videoreasoner.errors import SettingError
from videoreasoner.tasks import Task
from videoreasoner.training.recipe import ColdStartRecipe, load_recipe, parse_recipe
from videoreasoner.training.runtime.arguments import training_arguments


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_recipe(tmp_path / "recipe.yaml", recipe_content(tmp_path, tmp_path / "rows.jsonl"))


def test_what_the_command_line_says_wins(path: Path) -> None:
    changes = [
        "learning_rate=2e-6",
        "data.0.weight=0.5",
        "lora.r=16",
        "tasks=[answer, event]",
        "settings.frame_budget=32",
        "run_name=a=b",
    ]
    recipe = load_recipe(path, ColdStartRecipe, changes)
    assert recipe.learning_rate == 2e-6
    assert recipe.data[0].weight == 0.5
    assert recipe.lora is not None
    assert recipe.lora.r == 16
    # One order, whatever the recipe's.
    assert recipe.tasks == [Task.EVENT, Task.ANSWER]
    assert recipe.settings == {"frame_budget": 32}
    assert recipe.run_name == "a=b"
    assert load_recipe(path, ColdStartRecipe, ["seed=1", "seed=2"]).seed == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("lerning_rate=1", "no key lerning_rate; did you mean learning_rate"),
        ("data.0.wieght=1", r"no key data\.0\.wieght; did you mean weight"),
        ("lora.alpha=1", r"no key lora\.alpha; did you mean lora_alpha"),
        ("learning_rate=fast", "learning_rate: Input should be a valid number"),
        ("max_steps=0", "max_steps is 0"),
        ("settings.frame_budget=1", "frames come in pairs"),
        ("tasks=[answer, answer]", "a task is there twice"),
        ("data=[]", "data: List should have at least 1 item"),
        ("data.0.dataset=x", "either path or dataset"),
        ("data.3.weight=1", "'3' is no number of an entry"),
        ("learning_rate", "write key=value"),
        ("seed.a=1", "seed is a value and has no keys"),
        ("run_name=[", "is not YAML"),
        ("trainer.learning_rate=1", r"trainer\.learning_rate: a key of the recipe itself"),
    ],
)
def test_mistakes_are_named(path: Path, change: str, message: str) -> None:
    if change.startswith("seed."):
        path.write_text(path.read_text() + "seed: 3\n")
    with pytest.raises(SettingError, match=message):
        load_recipe(path, ColdStartRecipe, [change])


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("warmup_stepz", "did you mean trainer.warmup_steps"),
        ("save_strategy", "would have no effect"),
        ("label_smoothing_factor", "no effect"),
    ],
)
def test_keys_of_transformers_are_checked_too(path: Path, key: str, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        training_arguments(load_recipe(path, ColdStartRecipe, [f"trainer.{key}=1"]))


def test_other_keys_of_transformers_are_passed_on(path: Path) -> None:
    changes = ["trainer.torch_empty_cache_steps=7", "optim=sgd", "warmup_steps=0.1", "max_steps=40"]
    args = training_arguments(load_recipe(path, ColdStartRecipe, changes))
    assert (args.torch_empty_cache_steps, args.optim, args.get_warmup_steps(40)) == (7, "sgd", 4)


@pytest.mark.parametrize("text", ["- a\n", "a: [\n", "\x00"])
def test_files_that_are_no_recipes(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(SettingError, match=r"x\.yaml"):
        load_recipe(tmp_path / "x.yaml", ColdStartRecipe)
    with pytest.raises(SettingError, match="give the path of a recipe"):
        load_recipe(tmp_path / "none.yaml", ColdStartRecipe)


def test_a_recipe_is_the_same_after_being_written_and_read(path: Path) -> None:
    recipe = load_recipe(path, ColdStartRecipe)
    assert parse_recipe(recipe.model_dump(mode="json"), ColdStartRecipe) == recipe
