"""A recipe, however strange, is read or refused in one line."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.cli.calling import in_a_process, one_line
from tests.training.strange_recipes import KINDS, try_one
from videoreasoner.errors import SettingError
from videoreasoner.training.catalog import FOLDER
from videoreasoner.training.recipe import ColdStartRecipe, load_recipe


@pytest.mark.parametrize("kind", KINDS)
def test_spoiled_recipes_are_read_or_refused(kind: str, tmp_path: Path) -> None:
    assert {"refused"} <= {try_one(kind, seed, tmp_path / "recipe.yaml") for seed in range(20)}


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", KINDS)
def test_spoiled_recipes_of_fresh_seeds(kind: str, tmp_path: Path) -> None:
    first = random.SystemRandom().randrange(10**9)
    for seed in range(first, first + 1500):
        try_one(kind, seed, tmp_path / "recipe.yaml")


@pytest.mark.parametrize(
    "written",
    [
        "seed: 2026-99-99", "seed: !!int x", "seed: !!int ''", "seed: !!bool x", "seed: !!timestamp x",
        f"seed: {'9' * 5000}", f"seed: {'[' * 5000}", 'base: "\\0"', f"base: {'a' * 5000}", "data: &a [*a]",
    ],
)  # fmt: skip
def test_values_that_cannot_be_read(written: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(written)
    with pytest.raises(SettingError, match=r"recipe\.yaml"):
        load_recipe(path, ColdStartRecipe)
    key, _, value = written.partition(": ")
    tiny = FOLDER / "cold_start" / "tiny.yaml"
    if key == "seed":
        with pytest.raises(SettingError):
            load_recipe(tiny, ColdStartRecipe, [f"seed={value}"])


def test_devices_pipes_and_large_files_are_no_recipes(tmp_path: Path) -> None:
    pipe, large = tmp_path / "pipe", tmp_path / "large.yaml"
    os.mkfifo(pipe)
    large.write_text("#" * 2**21)
    for path in (Path("/dev/zero"), pipe, large):
        with pytest.raises(SettingError, match=str(path)):
            load_recipe(path, ColdStartRecipe)
        base = tmp_path / "recipe.yaml"
        base.write_text(f"base: {path}")
        with pytest.raises(SettingError):
            load_recipe(base, ColdStartRecipe)


@pytest.mark.parametrize("change", ["model_name_or_path=" + "a" * 1000, f"num_generations={10**30}"])
def test_absurd_values_in_a_dry_run(change: str) -> None:
    one_line(in_a_process("train", "grpo", "tiny", "--dry-run", "--set", change))
