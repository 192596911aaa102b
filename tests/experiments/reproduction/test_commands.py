from __future__ import annotations

from pathlib import Path

import pytest

from experiments.reproduction.commands import list_commands
from experiments.reproduction.jobs import Command
from experiments.reproduction.recipe import load_reproduction
from tests.experiments.reproduction.sample_results import RECIPE, shipped_recipe
from tests.paths import ROOT
from videoreasoner.errors import SettingError
from videoreasoner.training.grpo.recipe import GrpoRecipe
from videoreasoner.training.recipe import ColdStartRecipe, Recipe, load_recipe


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def training_recipe(command: Command) -> Recipe:
    """The recipe that a training command reads."""
    kind, path, *options = command.arguments[1:]
    assert options[::2] == ["--set"] * (len(options) // 2)
    return load_recipe(Path(path), {"cold-start": ColdStartRecipe, "grpo": GrpoRecipe}[kind], options[1::2])


def test_commands_come_after_those_that_they_need() -> None:
    seen: set[str] = set()
    for name, command in list_commands(shipped_recipe()).items():
        assert set(command.needs) <= seen
        seen.add(name)


def test_every_variant_starts_from_its_own_seed_and_has_the_same_queries() -> None:
    recipe = shipped_recipe()
    commands = list_commands(recipe)
    for name, variant in recipe.variants.items():
        for seed in recipe.seeds_of(name):
            if seed is None:
                continue
            command = commands[f"train-{name}-{seed}"]
            trained = training_recipe(command)
            needed = f"train-{variant.start}-{seed}"
            expected = "tiny-base" if variant.start == "base" else str(commands[needed].folder)
            assert (trained.model_name_or_path, trained.seed) == (expected, seed)
            assert trained.output_dir == str(command.folder)
            assert (needed in command.needs) == (variant.start != "base")
            videos = commands[f"videos-{variant.rows}-{seed}"]
            assert videos.name in command.needs
            assert {Path(source.path or "").parent for source in trained.data} == {videos.folder}
            if variant.rows == "queries":
                # Every variant sees each query once, as its control does.
                assert (trained.num_train_epochs, trained.max_steps) == (1, -1)


def test_the_text_chain_has_the_budget_of_the_variants_that_locate() -> None:
    commands = list_commands(shipped_recipe())
    for chain, other in (("think-cold-start", "cold-start"), ("think", "grpo-both")):
        a, b = (training_recipe(commands[f"train-{name}-0"]) for name in (chain, other))
        own = {"tasks", "settings", "rewards", "max_completion_length", "output_dir", "model_name_or_path"}
        assert a.model_dump(exclude=own) == b.model_dump(exclude=own)


def test_all_variants_are_asked_the_same_questions() -> None:
    asked = set()
    for name, command in list_commands(shipped_recipe()).items():
        if name.startswith("eval-"):
            arguments = list(command.arguments)
            for option in ("--mode", "--out", "--model"):
                at = arguments.index(option)
                del arguments[at : at + 2]
            asked.add(tuple(arguments))
    assert len(asked) == 1


def test_a_change_concerns_a_variant_and_what_comes_after_it() -> None:
    before = list_commands(shipped_recipe())
    changed = load_reproduction(RECIPE, ["variants.think-cold-start.changes.learning_rate=1e-3"])
    after = list_commands(changed)
    assert {name for name in before if before[name].hash != after[name].hash} == {n for n in before if "think" in n}


def test_changes_of_speed_keep_the_hashes() -> None:
    before = list_commands(shipped_recipe())
    after = list_commands(load_reproduction(RECIPE, ["training.grpo.changes.save_steps=7"]))
    assert all(before[name].hash == after[name].hash for name in before)


def test_more_rows_in_a_step_are_another_experiment() -> None:
    before = list_commands(shipped_recipe(1))
    changed = load_reproduction(RECIPE, ["training.grpo.changes.per_device_train_batch_size=3"], 1)
    assert before["train-grpo-both-0"].hash != list_commands(changed)["train-grpo-both-0"].hash


def test_another_seed_changes_nothing_for_the_first_ones() -> None:
    one, three = list_commands(shipped_recipe(1)), list_commands(shipped_recipe(3))
    assert all(three[name] == command for name, command in one.items())


def test_a_mistake_in_a_training_is_found_before_anything_runs() -> None:
    recipe = load_reproduction(RECIPE, ["variants.sft.changes.lerning_rate=1"])
    with pytest.raises(SettingError, match="did you mean learning_rate"):
        list_commands(recipe)
