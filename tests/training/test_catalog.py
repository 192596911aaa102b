"""Shipped recipes by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.paths import ROOT
from videoreasoner.errors import SettingError
from videoreasoner.training.catalog import FOLDER, find, recipe_file, shipped, writers
from videoreasoner.training.grpo.recipe import GrpoRecipe
from videoreasoner.training.recipe import load_recipe


def test_every_file_has_a_name_and_every_name_leads_to_it() -> None:
    files = shipped()
    assert [item.name for item in files] == sorted(item.name for item in files)
    assert {item.path for item in files} == set(FOLDER.rglob("*.yaml"))
    for item in files:
        for name in (item.name, f"{item.name}.yaml", f"recipes/{item.name.replace('-start', '_start')}.yaml"):
            assert find(name).path == item.path
        assert find(item.short_name, item.kind).path == item.path


@pytest.mark.parametrize("item", [item for item in shipped() if item.kind == "grpo"], ids=lambda item: item.short_name)
def test_a_value_is_what_the_recipe_has(item) -> None:
    recipe = load_recipe(item.path, GrpoRecipe)
    assert item.value("model_name_or_path") == recipe.model_name_or_path
    assert item in writers(recipe.output_dir)


def test_the_folder_at_the_top_is_a_link_to_the_package() -> None:
    assert (ROOT / "recipes").resolve() == FOLDER


def test_a_file_of_the_user_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert recipe_file("tiny", "grpo") == find("grpo/tiny").path
    (tmp_path / "tiny").mkdir()
    assert recipe_file("tiny", "grpo") == find("grpo/tiny").path
    (tmp_path / "tiny").rmdir()
    (tmp_path / "tiny").write_text("{}")
    assert recipe_file("tiny", "grpo") == Path("tiny")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tinny", "did you mean grpo/tiny?"),
        ("qwen2-vl-7b-1x8", "did you mean grpo/qwen2-vl-7b or cold-start/qwen2-vl-7b-1x8?"),
        ("cold-start/tiny", "run it with `videoreasoner train cold-start tiny`"),
        ("accelerate/zero3", "a profile for `accelerate launch`"),
        (str(FOLDER / "cold_start" / "tiny.yaml"), "run it with `videoreasoner train cold-start tiny`"),
        ("/nowhere/at/all.yaml", "no such file and no shipped recipe of this name; `videoreasoner train --list`"),
        ("", "no such file"),
    ],
)
def test_a_wrong_name_is_told_the_right_one(name: str, message: str) -> None:
    with pytest.raises(SettingError) as caught:
        recipe_file(name, "grpo")
    assert message in str(caught.value)


def test_a_base_is_a_file_beside_or_a_shipped_recipe(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("base: grpo/tiny\nseed: 5\n")
    (tmp_path / "next.yaml").write_text("base: mine.yaml\nmax_steps: 3\n")
    whole = load_recipe(find("grpo/tiny").path, GrpoRecipe)
    assert load_recipe(tmp_path / "next.yaml", GrpoRecipe) == whole.model_copy(update={"seed": 5, "max_steps": 3})
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"base": "grpo/tinny"}))
    with pytest.raises(SettingError, match=r"mine\.yaml: base grpo/tinny: .* did you mean grpo/tiny\?"):
        load_recipe(tmp_path / "mine.yaml", GrpoRecipe)
