"""The README.md of a checkpoint folder: its training data, settings, and scores while training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from videoreasoner.training.data.sources import Rows, Skipped
from videoreasoner.training.recipe import Recipe

_PACKAGES = ("videoreasoner", "transformers", "accelerate", "torch")
_KINDS = {"ColdStartRecipe": "the multi-task cold start", "GrpoRecipe": "multi-task GRPO"}
_SAMPLED = ("parse_rate", "iou/event", "accuracy/answer")
_SHOWN = ("loss", "reward", *_SAMPLED, *(f"held_out/{name}" for name in _SAMPLED))


def model_card(
    recipe: Recipe, sources: Sequence[Rows], skipped: Sequence[Skipped], history: Sequence[dict[str, Any]]
) -> str:
    """Markdown with the hub's metadata on top.

    Args:
        skipped: rows of the sources that were not used.
        history: transformers' log history, oldest first.
    """
    kind = _KINDS.get(type(recipe).__name__, type(recipe).__name__)
    name = Path(recipe.output_dir).resolve().name
    base = recipe.model_name_or_path
    metadata = {"library_name": "transformers", "pipeline_tag": "video-text-to-text", "base_model": base}
    return "\n".join(
        [
            "---",
            yaml.safe_dump(metadata, sort_keys=False).strip(),
            "tags: [videoreasoner, video-question-answering, temporal-grounding]",
            "---",
            "",
            f"# {name}",
            "",
            f"`{base}`, trained by {kind} of VideoReasoner: it locates the event that a question about a video is "
            "about, names what to look for, and answers.",
            "",
            f"    videoreasoner ask VIDEO.mp4 'What happens first?' --model {name}",
            "",
            "Stock transformers and vLLM load this folder. `videoreasoner.json` holds prompts and frame settings.",
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
