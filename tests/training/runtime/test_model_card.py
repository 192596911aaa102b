"""The model card: the data, the settings and the last metrics of a run, readable by the hub."""

from __future__ import annotations

from pathlib import Path

import yaml

from videoreasoner.rows import Row
from videoreasoner.training.data.sources import Rows, Skipped
from videoreasoner.training.grpo.recipe import GrpoRecipe
from videoreasoner.training.recipe import parse_recipe
from videoreasoner.training.runtime.model_card import model_card

CONTENT = {"model_name_or_path": "base/model", "output_dir": "out/mine", "data": [{"path": "a.jsonl"}]}


def rows(name: str, count: int, source: str | None) -> Rows:
    made = [Row(id=f"{name}-{n}", video="v.mp4", question="What?", answer="a", source=source) for n in range(count)]
    return Rows(name, 2.0, None, made, skipped=[Skipped(name, "line 9", "not JSON")])


def test_the_card_says_what_the_model_was_trained_on_and_how() -> None:
    recipe = parse_recipe({**CONTENT, "learning_rate": 1e-5}, GrpoRecipe)
    sources = [rows("a.jsonl", 4, "nextgqa"), rows("b.jsonl", 3, None)]
    skipped = [*sources[0].skipped, *sources[1].skipped, Skipped("a.jsonl", "a.jsonl-2", "no such video", 3)]
    history = [
        {"step": 1, "reward": 0.25, "loss": 1.0},
        {"step": 2, "reward": 0.5, "held_out/iou/event": 0.125, "grad_norm": 3.0},
    ]
    card = model_card(recipe, sources, skipped, history)
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
    card = model_card(recipe, [rows("a.jsonl", 1, "x")], [], [])
    assert "## Metrics" not in card
    assert Path(recipe.output_dir).name in card
