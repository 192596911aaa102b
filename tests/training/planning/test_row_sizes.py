"""Tokens of rows: the same that training sees, and the longest row where the rows are not there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.training.toy import make_data, make_model, recipe_content
from videoreasoner.errors import SettingError
from videoreasoner.rows import Row, read_rows, write_rows
from videoreasoner.training.data.examples import example_maker
from videoreasoner.training.data.sources import read_sources
from videoreasoner.training.grpo.recipe import GrpoRecipe
from videoreasoner.training.planning.dry_run import dry_run
from videoreasoner.training.planning.memory import (
    Hardware,
)
from videoreasoner.training.planning.model import read_model
from videoreasoner.training.planning.row_sizes import longest_row, row_sizes
from videoreasoner.training.recipe import ColdStartRecipe, parse_recipe
from videoreasoner.training.runtime.adapters import load_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("planning")
    make_model(made / "model")
    make_data(made / "data")
    return made


def recipe_for(folder: Path, **changes: Any) -> ColdStartRecipe:
    return parse_recipe({**recipe_content(folder, folder / "data" / "plain.jsonl"), **changes}, ColdStartRecipe)


def test_the_tokens_are_those_of_training(folder: Path) -> None:
    recipe = recipe_for(folder, max_length=165)
    model = read_model(recipe)
    sources = read_sources(recipe.data, recipe.row_fields, recipe.video_root)
    sizes, opened, refused = row_sizes(recipe, model, sources)
    assert (opened, len(sizes), refused) == (6, 6, [])
    assert len({size.visual for size in sizes}) > 1
    maker = example_maker(recipe, load_model(recipe), recipe.max_target_length)
    for row, size in zip(sources[0].rows, sizes, strict=True):
        made = maker.example("rows", row, row.video_path(folder / "data"))
        assert size.total == made.tokens
        assert size.visual == int(made.prompt.trunk.visual.sum())
        assert size.targets == tuple(map(len, made.targets.values()))


@pytest.mark.parametrize(
    ("tasks", "rewards"),
    [
        (["event", "answer"], {}),
        # Judged by fields that hold no target of theirs.
        (["think"], {"accuracy": 1.0}),
        (["key_elements", "answer"], {"key_element_retrieval": 1.0, "accuracy": 1.0}),
    ],
)
def test_the_tokens_are_those_of_grpo(
    tasks: list[str], rewards: dict[str, float], folder: Path, tmp_path: Path
) -> None:
    """Of rows that hold what completions are judged by, and nothing that a cold start would be taught."""
    without = {"key_elements": None, "reasoning": None}
    rows = [Row.model_validate({**row.model_dump(), **without}) for row in read_rows(folder / "data" / "plain.jsonl")]
    write_rows(tmp_path / "rows.jsonl", rows)
    content = recipe_content(folder, tmp_path / "rows.jsonl", max_length=165, tasks=tasks)
    content["video_root"] = str(folder / "data")
    recipe = parse_recipe({**content, **({"rewards": rewards} if rewards else {})}, GrpoRecipe)
    model = read_model(recipe)
    sources = read_sources(recipe.data, recipe.row_fields, recipe.video_root)
    sizes, *_ = row_sizes(recipe, model, sources)
    maker = example_maker(recipe, load_model(recipe), None)
    for row, size in zip(sources[0].rows, sizes, strict=True):
        made = maker.example("rows", row, row.video_path(folder / "data"))
        assert list(made.prompt.prefixes) == row.usable_tasks(recipe.row_fields) != []
        assert (size.total, size.visual, size.targets) == (made.tokens, int(made.prompt.trunk.visual.sum()), ())
    assert "6 usable" in dry_run(recipe, Hardware()).text


def test_the_longest_row_holds_every_row(folder: Path) -> None:
    recipe = recipe_for(folder)
    model = read_model(recipe)
    sizes, *_ = row_sizes(recipe, model, read_sources(recipe.data, recipe.row_fields, recipe.video_root))
    longest = longest_row(recipe, model)
    assert longest.visual == max(size.visual for size in sizes)
    assert longest.text > max(size.text for size in sizes)
    few = longest_row(recipe_for(folder, max_length=longest.total - 1), model)
    assert (few.visual, few.text) == (longest.visual - 4, longest.text)
    with pytest.raises(SettingError, match="max_length 2048"):
        longest_row(recipe_for(folder, max_length=2048), model)
