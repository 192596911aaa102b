"""Every recipe that ships parses, says what it needs, and runs on a toy model; every field of a recipe is read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from tests.training.toy import make_data, make_model
from videoreasoner.errors import SettingError
from videoreasoner.models.checkpoint import load_checkpoint
from videoreasoner.training.catalog import PROFILES as PROFILE_KIND
from videoreasoner.training.catalog import Shipped, find, shipped, writers
from videoreasoner.training.cold_start import train_cold_start
from videoreasoner.training.grpo.recipe import GrpoRecipe
from videoreasoner.training.planning.dry_run import dry_run
from videoreasoner.training.planning.memory import Hardware
from videoreasoner.training.planning.model import published_name
from videoreasoner.training.recipe import ColdStartRecipe, Lora, Source, load_recipe, loses_updates

ROOT = Path(__file__).parents[1]
RECIPES = sorted((ROOT / "recipes" / "cold_start").glob("*.yaml"))
PROFILES = sorted((ROOT / "recipes" / "accelerate").glob("*.yaml"))


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    make_model(folder / "model")
    make_data(folder / "data", videos=3)
    return folder


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_says_what_it_needs(path: Path) -> None:
    header = path.read_text().split("\nmodel_name_or_path")[0].split("\nbase:")[0]
    for word in ("hardware", "memory", "time", "score", f"videoreasoner train cold-start {path.stem}"):
        assert word in header, word
    recipe = load_recipe(path, ColdStartRecipe)
    assert Path(recipe.output_dir).name == path.stem.removesuffix("-1x8")
    assert recipe.model_name_or_path == "tiny-base" or published_name(recipe.model_name_or_path) is not None
    for profile in re.findall(r"accelerate/\w+", header):
        assert find(profile).path.is_file()


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_runs_on_a_toy_model(path: Path, toy: Path, tmp_path: Path) -> None:
    changes = [
        f"model_name_or_path={toy / 'model'}",
        f"output_dir={tmp_path / 'out'}",
        f"data=[{{path: {toy / 'data' / 'plain.jsonl'}}}]",
        "eval_data=[]",
        f"video_root={toy / 'data'}",
        f"frame_cache_dir={tmp_path / 'frames'}",
        "settings={frame_budget: 4}",
        "max_steps=1",
        "per_device_train_batch_size=1",
        "gradient_accumulation_steps=1",
        "dataloader_num_workers=0",
    ]
    content = yaml.safe_load(path.read_text())
    if content.get("lora", {}).get("load_in_4bit"):
        # Needs a GPU; the rest of the recipe does not.
        changes.append("lora.load_in_4bit=false")
    if loses_updates(load_recipe(path, ColdStartRecipe), is_split=False):
        # Needs DeepSpeed or FSDP, which its header launches.
        changes.append("dtype=float32")
    folder = train_cold_start(load_recipe(path, ColdStartRecipe, changes))
    trained = load_checkpoint(folder, "cpu")
    assert trained.settings.frame_budget == 4
    assert trained.settings.training["recipe"]["max_steps"] == 1
    assert list((tmp_path / "frames").iterdir())


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_a_profile_is_one_that_accelerate_reads(path: Path) -> None:
    from accelerate.commands.config.config_args import ClusterConfig

    profile = ClusterConfig.from_yaml_file(str(path))
    assert profile.mixed_precision == "bf16"
    assert f"accelerate/{path.stem}" in path.read_text()


@pytest.mark.parametrize("kind", [ColdStartRecipe, Lora, Source])
def test_every_field_is_read_somewhere(kind: type) -> None:
    package = ROOT / "src" / "videoreasoner" / "training"
    code = "\n".join(path.read_text() for path in package.rglob("*.py") if path.name != "recipe.py")
    for name in kind.model_fields:
        # As an attribute, or by the name under which it goes to transformers.
        assert re.search(rf'\.{name}\b|^    .*"{name}"', code, re.MULTILINE), name


def test_every_field_is_documented() -> None:
    text = (ROOT / "docs" / "training.md").read_text()
    for kind in (ColdStartRecipe, Lora, Source):
        for name in kind.model_fields:
            assert f"`{name}`" in text, name


@pytest.mark.parametrize("grpo", [item for item in shipped() if item.kind == "grpo"], ids=lambda item: item.short_name)
def test_what_grpo_begins_from_is_what_a_cold_start_writes(
    grpo: Shipped, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_recipe(grpo.path, GrpoRecipe)
    makers = writers(recipe.model_name_or_path)
    assert makers
    assert {maker.kind for maker in makers} == {"cold-start"}
    # All that write the same folder train the same model in the same way.
    free = {"per_device_train_batch_size", "gradient_accumulation_steps"}
    assert len({load_recipe(m.path, ColdStartRecipe).model_dump_json(exclude=free) for m in makers}) == 1
    # The chain is planned from its beginning, where nothing of it exists.
    monkeypatch.chdir(tmp_path)
    plan = dry_run(recipe, Hardware(8, "zero2"))
    base = makers[0].value("model_name_or_path")
    assert f"`{makers[0].command}`" in plan.text
    assert f"Planned for as {base}." in plan.text
    assert plan.problems == []


@pytest.mark.parametrize(
    "item", [item for item in shipped() if item.kind == "cold-start"], ids=lambda item: item.short_name
)
def test_grpo_reads_what_a_cold_start_writes_or_the_recipe_says_how_to_continue(item: Shipped) -> None:
    folder = item.value("output_dir")
    readers = [other for other in shipped() if other.kind == "grpo" and other.value("model_name_or_path") == folder]
    assert readers or f"--set model_name_or_path={folder}" in item.path.read_text()


def test_no_two_chains_write_the_same_folder() -> None:
    folders = [item.value("output_dir") for item in shipped() if item.kind == "grpo"]
    assert len(folders) == len(set(folders))


def test_the_page_lists_every_recipe() -> None:
    text = (ROOT / "docs" / "training.md").read_text()
    for item in shipped():
        assert f"`{item.name}`" in text, item.name
        assert item.about
        assert item.kind == PROFILE_KIND or item.hardware


def test_a_base_is_overridden_key_by_key() -> None:
    whole = load_recipe(ROOT / "recipes/cold_start/qwen2-vl-7b.yaml", ColdStartRecipe)
    split = load_recipe(ROOT / "recipes/cold_start/qwen2-vl-7b-1x8.yaml", ColdStartRecipe)
    differing = {name for name in ColdStartRecipe.model_fields if getattr(whole, name) != getattr(split, name)}
    assert differing == {"gradient_accumulation_steps"}


def test_bases_that_lead_back_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("base: b.yaml\n")
    (tmp_path / "b.yaml").write_text("base: a.yaml\n")
    with pytest.raises(SettingError, match="leads back to itself"):
        load_recipe(tmp_path / "a.yaml", ColdStartRecipe)
