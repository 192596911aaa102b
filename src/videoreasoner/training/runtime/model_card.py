"""The README.md of a checkpoint folder: its licence, training data, settings, and scores while training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import metadata_load

from videoreasoner.models.checkpoint import Checkpoint, is_hub_id
from videoreasoner.training.data.sources import Rows, Skipped
from videoreasoner.training.recipe import Recipe

_PACKAGES = ("videoreasoner", "transformers", "accelerate", "torch")
_LICENSE = ("license", "license_name", "license_link")
_KINDS = {"ColdStartRecipe": "the multi-task cold start", "GrpoRecipe": "multi-task GRPO"}
_SAMPLED = ("parse_rate", "iou/event", "accuracy/answer")
_SHOWN = ("loss", "reward", *_SAMPLED, *(f"held_out/{name}" for name in _SAMPLED))


def model_card(
    recipe: Recipe,
    base: Checkpoint,
    sources: Sequence[Rows],
    skipped: Sequence[Skipped],
    history: Sequence[dict[str, Any]],
) -> str:
    """Markdown with the hub's metadata on top.

    Args:
        base: the model that training began from, as it was loaded.
        skipped: rows of the sources that were not used.
        history: transformers' log history, oldest first.
    """
    kind = _KINDS.get(type(recipe).__name__, type(recipe).__name__)
    name = Path(recipe.output_dir).resolve().name
    license = _license(recipe, base)
    metadata: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": "video-text-to-text", "language": "en"}
    metadata |= license | {"base_model": origin} if (origin := _hub_origin(recipe, base)) else license
    stated = license.get("license_name") or license.get("license")
    return "\n".join(
        [
            "---",
            yaml.safe_dump(metadata, sort_keys=False).strip(),
            "tags: [videoreasoner, video-question-answering, temporal-grounding]",
            "---",
            "",
            f"# {name}",
            "",
            f"`{recipe.model_name_or_path}`, trained by {kind} of VideoReasoner: it locates the event that a question "
            "about a video is about, names what to look for, and answers.",
            "",
            f"    videoreasoner ask VIDEO.mp4 'What happens first?' --model {name}",
            "",
            "Stock transformers and vLLM load this folder. `videoreasoner.json` holds prompts and frame settings.",
            "",
            f"Licence: {stated}." if stated else "The licence of the base model applies.",
            "",
            "## Data",
            "",
            *_data_table(sources, skipped),
            "",
            *_scores(history),
            "## Settings",
            "",
            "```yaml",
            yaml.safe_dump(recipe.model_dump(mode="json", exclude_defaults=True), sort_keys=False).strip(),
            "```",
            "",
            "Trained with " + ", ".join(f"{package} {version(package)}" for package in _PACKAGES) + ".",
            "",
        ]
    )


def _license(recipe: Recipe, base: Checkpoint) -> dict[str, str]:
    """The recipe's licence, or what the card of the base model says, as metadata; empty where neither says one."""
    if recipe.license is not None:
        return {"license": recipe.license}
    card = base.folder / "README.md" if base.folder else None
    if card is None or not card.is_file():
        return {}
    try:
        there = metadata_load(card) or {}
    except (OSError, ValueError, yaml.YAMLError):
        # Training does not need it, and the new card then refers to the base model.
        return {}
    return {name: str(there[name]) for name in _LICENSE if there.get(name)}


def _hub_origin(recipe: Recipe, base: Checkpoint) -> str | None:
    """The nearest ancestor that has an id of the hub, which knows no folders of this machine."""
    name: Any = recipe.model_name_or_path
    record: Any = base.settings.training
    while isinstance(name, str):
        if is_hub_id(name) and not Path(name).is_dir():
            return name
        name, record = (record.get("base"), record.get("before")) if isinstance(record, dict) else (None, None)
    return None


def _data_table(sources: Sequence[Rows], skipped: Sequence[Skipped]) -> list[str]:
    unused = Counter(item.source for item in skipped)
    lines = ["| source | rows used | skipped | weight |", "|---|---|---|---|"]
    for rows in sources:
        total = len(rows) + len(rows.skipped)
        lines.append(f"| {rows.name} | {total - unused[rows.name]} | {unused[rows.name]} | {rows.weight:g} |")
    origins = Counter(row.source or "unknown" for rows in sources for row in rows.rows)
    counts = ", ".join(f"{origin} ({count})" for origin, count in origins.most_common())
    return [*lines, "", f"By the rows' own `source`: {counts}."]


def _scores(history: Sequence[dict[str, Any]]) -> list[str]:
    """The last metrics of the run. Held-out samples are few, so this is no evaluation."""
    latest: dict[str, tuple[int, float]] = {}
    for record in history:
        latest |= {name: (record["step"], record[name]) for name in _SHOWN if name in record}
    if not latest:
        return []
    lines = ["| metric | step | value |", "|---|---|---|"]
    lines += [f"| {name} | {step} | {value:.3f} |" for name, (step, value) in latest.items()]
    note = "From the training run. IoU, accuracy and held-out values come from a few rows, so this is no evaluation."
    return ["## Metrics", "", *lines, "", note, ""]
