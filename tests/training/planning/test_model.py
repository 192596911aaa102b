"""The model of a recipe without its weights: published sizes, config.json files, and what is no model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.models.qwen_vocabulary import qwen_tokenizer
from tests.training.toy import make_data, make_model, recipe_content
from videoreasoner.errors import CheckpointError
from videoreasoner.models.prompt_encoder import PromptEncoder
from videoreasoner.prompts import Prompts
from videoreasoner.rows import Row
from videoreasoner.tasks import Task
from videoreasoner.training.data.examples import prefixes_and_targets, text_length
from videoreasoner.training.planning.memory import (
    count_parameters,
)
from videoreasoner.training.planning.model import PUBLISHED, meta_model, published_name, read_model
from videoreasoner.training.recipe import ColdStartRecipe, parse_recipe


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("planning")
    make_model(made / "model")
    make_data(made / "data")
    return made


def recipe_for(folder: Path, **changes: Any) -> ColdStartRecipe:
    return parse_recipe({**recipe_content(folder, folder / "data" / "plain.jsonl"), **changes}, ColdStartRecipe)


def published(name: str) -> Any:
    return meta_model(PUBLISHED[name])


def test_the_published_models_have_their_published_sizes() -> None:
    """The sums of the tensors in the published weights."""
    sizes = {name: count_parameters(published(name)) for name in PUBLISHED}
    assert sizes == {
        "qwen2-vl-2b": 2_208_985_600,
        "qwen2-vl-7b": 8_291_375_616,
        "qwen2.5-vl-3b": 3_754_622_976,
        "qwen2.5-vl-7b": 8_292_166_656,
    }
    assert published_name("Qwen/Qwen2-VL-7B-Instruct") == published_name("Qwen/Qwen2-VL-7B") == "qwen2-vl-7b"
    assert published_name("org/other") is None


def test_a_configuration_in_the_old_flat_layout_is_read() -> None:
    config = PUBLISHED["qwen2-vl-2b"]
    flat = {name: value for name, value in config.items() if name != "text_config"} | config["text_config"]
    assert count_parameters(meta_model(flat)) == 2_208_985_600


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "llama"}, "'llama' is not supported"),
        ({"text_config": {"hidden_size": "wide"}}, "hidden_size: Input should be"),
        ({"text_config": {"num_attention_heads": 0}}, "num_attention_heads: Input should be"),
        ({"text_config": {"hidden_size": -8}}, "hidden_size: Input should be"),
    ],
)
def test_a_configuration_that_is_none_is_named(
    changes: dict[str, Any], message: str, folder: Path, tmp_path: Path
) -> None:
    make_model(tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    for name, value in changes.items():
        config[name] = {**config[name], **value} if isinstance(value, dict) else value
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=message) as caught:
        read_model(recipe_for(folder, model_name_or_path=str(tmp_path / "model")))
    assert str(tmp_path / "model") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_that_does_not_exist_yet_is_planned_for_as_what_makes_it(folder: Path) -> None:
    made = read_model(recipe_for(folder, model_name_or_path="out/cold-start/tiny/"))
    assert "`videoreasoner train cold-start tiny` writes it. Planned for as tiny-base." in made.note
    assert made.has_tokenizer
    # Frame settings are those of the recipe that makes it.
    made = read_model(recipe_for(folder, model_name_or_path="out/cold-start/qwen2-vl-2b-qlora"))
    assert made.settings.max_pixels == 62720
    named = read_model(recipe_for(folder, model_name_or_path="out/mine/qwen2-vl-2b-mine"))
    assert "no shipped recipe writes it. Planned for as qwen2-vl-2b, which its name begins with" in named.note
    with pytest.raises(CheckpointError, match="out/mine/other: no such folder"):
        read_model(recipe_for(folder, model_name_or_path="out/mine/other"))


def test_tokens_that_are_counted_by_characters_are_about_those_of_the_real_vocabulary() -> None:
    row = Row.model_validate(
        {
            "id": "1", "video": "a.mp4", "event": [3.0, 9.5], "answer": "A", "key_elements": ["fridge door", "milk"],
            "question": "What does the man in the blue shirt do after he opens the fridge?",
            "options": ["He drinks a glass of milk", "He closes the door", "He calls his dog"],
        }
    )  # fmt: skip
    fields = {task: frozenset([task]) for task in (Task.EVENT, Task.KEY_ELEMENTS, Task.ANSWER)}
    content = {**recipe_content(Path(), Path("rows.jsonl")), "model_name_or_path": "Qwen/Qwen2-VL-7B"}
    recipe = parse_recipe(content, ColdStartRecipe)
    counts = []
    for encoder in (read_model(recipe).encoder, PromptEncoder(qwen_tokenizer(), Prompts())):
        _, targets = prefixes_and_targets(row, fields, encoder, 30.0, 512)
        counts.append(text_length(encoder.question(row.question, row.options or ()), targets, encoder))
    assert counts[1] <= counts[0] <= 1.2 * counts[1]
