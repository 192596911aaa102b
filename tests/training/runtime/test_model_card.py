"""The model card: the data, the settings and the last metrics of a run, readable by the hub."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml

from videoreasoner.rows import Row
from videoreasoner.settings import Settings
from videoreasoner.training.data.sources import Rows, Skipped
from videoreasoner.training.grpo.recipe import GrpoRecipe
from videoreasoner.training.recipe import parse_recipe
from videoreasoner.training.runtime.model_card import model_card

CONTENT = {"model_name_or_path": "base/model", "output_dir": "out/mine", "data": [{"path": "a.jsonl"}]}


def rows(name: str, count: int, source: str | None) -> Rows:
    made = [Row(id=f"{name}-{n}", video="v.mp4", question="What?", answer="a", source=source) for n in range(count)]
    return Rows(name, 2.0, None, made, skipped=[Skipped(name, "line 9", "not JSON")])


def base(folder: Path | None = None, training: dict[str, Any] | None = None) -> Any:
    """What the card reads of a loaded checkpoint."""
    return SimpleNamespace(folder=folder, settings=Settings(training=training or {}))


def test_the_card_says_what_the_model_was_trained_on_and_how() -> None:
    recipe = parse_recipe({**CONTENT, "learning_rate": 1e-5}, GrpoRecipe)
    sources = [rows("a.jsonl", 4, "nextgqa"), rows("b.jsonl", 3, None)]
    skipped = [*sources[0].skipped, *sources[1].skipped, Skipped("a.jsonl", "a.jsonl-2", "no such video", 3)]
    history = [
        {"step": 1, "reward": 0.25, "loss": 1.0},
        {"step": 2, "reward": 0.5, "held_out/iou/event": 0.125, "grad_norm": 3.0},
    ]
    card = model_card(recipe, base(), sources, skipped, history)
    _, head, body = card.split("---\n", 2)
    metadata = yaml.safe_load(head)
    assert (metadata["base_model"], metadata["library_name"]) == ("base/model", "transformers")
    assert "# mine\n" in body
    assert "trained by multi-task GRPO" in body
    # Used, skipped, weight. A row that could not be used counts as skipped whenever that was found.
    assert "| a.jsonl | 3 | 2 | 2 |" in body
    assert "| b.jsonl | 3 | 1 | 2 |" in body
    assert "nextgqa (4), unknown (3)" in body
    for line in ("| loss | 1 | 1.000 |", "| reward | 2 | 0.500 |", "| held_out/iou/event | 2 | 0.125 |"):
        assert line in body
    assert "grad_norm" not in body
    settings = yaml.safe_load(body.split("```yaml\n")[1].split("```")[0])
    assert settings == {**CONTENT, "learning_rate": 1e-5}


def test_a_run_without_metrics_has_no_table_of_them() -> None:
    recipe = parse_recipe(CONTENT, GrpoRecipe)
    card = model_card(recipe, base(), [rows("a.jsonl", 1, "x")], [], [])
    assert "## Metrics" not in card
    assert Path(recipe.output_dir).name in card


def test_the_licence_is_the_recipes_or_that_of_the_base(tmp_path: Path) -> None:
    def card(folder: Path | None, **changes: Any) -> tuple[dict[str, Any], str]:
        recipe = parse_recipe({**CONTENT, **changes}, GrpoRecipe)
        _, head, body = model_card(recipe, base(folder), [rows("a.jsonl", 1, "x")], [], []).split("---\n", 2)
        return yaml.safe_load(head), body

    head, body = card(tmp_path)
    assert "license" not in head
    assert "The licence of the base model applies." in body
    stated = "license: other\nlicense_name: qwen-research\nlicense_link: LICENSE\n"
    (tmp_path / "README.md").write_text(f"---\n{stated}tags: [x]\n---\n# Base\n")
    head, body = card(tmp_path)
    assert yaml.safe_load(stated).items() <= head.items()
    assert "Licence: qwen-research." in body
    head, body = card(tmp_path, license="apache-2.0")
    assert (head["license"], "license_name" in head) == ("apache-2.0", False)
    (tmp_path / "README.md").write_text("---\n[\n---\n")
    assert "license" not in card(tmp_path)[0]


def test_folders_of_this_machine_are_no_base_on_the_hub(tmp_path: Path) -> None:
    recipe = parse_recipe({**CONTENT, "model_name_or_path": str(tmp_path)}, GrpoRecipe)

    def base_model(training: dict[str, Any] | None) -> Any:
        card = model_card(recipe, base(tmp_path, training), [rows("a.jsonl", 1, "x")], [], [])
        return yaml.safe_load(card.split("---\n")[1]).get("base_model")

    assert base_model(None) is None
    assert base_model({"base": "Qwen/Qwen2-VL-2B", "before": None}) == "Qwen/Qwen2-VL-2B"
    assert base_model({"base": str(tmp_path), "before": {"base": "Qwen/Qwen2-VL-2B"}}) == "Qwen/Qwen2-VL-2B"
