"""Small runs of the cold start."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.training.toy import recipe_content
from videoreasoner.training.cold_start import train_cold_start
from videoreasoner.training.recipe import ColdStartRecipe, parse_recipe


def train(content: dict[str, Any]) -> Path:
    return train_cold_start(parse_recipe(content, ColdStartRecipe))


def content_for(folder: Path, out: Path, **changes: Any) -> dict[str, Any]:
    return recipe_content(folder, folder / "data" / "plain.jsonl", output_dir=str(out), **changes)


def metrics(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
