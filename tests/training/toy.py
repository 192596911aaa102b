"""A model of random weights with real videos and rows: all that a training run needs, in a folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.models.tiny_models import random_qwen2_5_vl, random_qwen2_vl, tokenizer
from videoreasoner.models.checkpoint import Checkpoint, save_checkpoint
from videoreasoner.settings import Settings
from videoreasoner.synthetic.videos import VideoSettings, make_videos
from videoreasoner.tasks import Task
from videoreasoner.training.data.cache import ArrayCache
from videoreasoner.training.data.examples import ExampleMaker
from videoreasoner.training.data.frames import ClipReader
from videoreasoner.video.patches import PatchSettings

FAMILIES = {"qwen2_vl": random_qwen2_vl, "qwen2_5_vl": random_qwen2_5_vl}
PIXELS = 56 * 56
SETTINGS = Settings(frame_budget=8, min_pixels=PIXELS, max_pixels=PIXELS, max_new_tokens=12, max_thought_tokens=16)
PATCHES = PatchSettings(min_pixels=PIXELS, max_pixels=PIXELS)


def make_model(folder: Path, family: str = "qwen2_vl", tied: bool = True, event_tokens: bool = True) -> Path:
    save_checkpoint(folder, FAMILIES[family](tied=tied), tokenizer(event_tokens), SETTINGS, PATCHES)
    return folder


def make_data(folder: Path, videos: int = 6, seed: int = 0) -> Path:
    """Videos of four seconds and `plain.jsonl`, whose rows differ in the tasks that they support."""
    rows = make_videos(folder, videos, VideoSettings(4.0, 40, 64, seed=seed), splits=["plain"])
    lines = []
    for number, row in enumerate(rows):
        content = json.loads(row.to_json_line())
        if number % 3 == 1:
            del content["event"]
        if number % 3 == 2:
            del content["key_elements"], content["options"]
            content["answer"] = content["answer_text"]
        lines.append(json.dumps(content))
    path = folder / "plain.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def maker_for(
    checkpoint: Checkpoint,
    tasks: Sequence[Task] = tuple(Task),
    max_length: int = 4096,
    max_target_length: int | None = 256,
    cache: ArrayCache | None = None,
) -> ExampleMaker:
    """How rows become examples for a checkpoint; each task reads its own field."""
    reader = ClipReader(checkpoint.settings, checkpoint.patches, cache=cache)
    fields = {task: frozenset({task}) for task in tasks}
    return ExampleMaker(checkpoint.encoder, reader, fields, max_length, max_target_length, checkpoint.tokens_per_second)


def recipe_content(folder: Path, data: Path, **changes: Any) -> dict[str, Any]:
    """A recipe of six steps of two rows."""
    return {
        "model_name_or_path": str(folder / "model"),
        "output_dir": str(folder / "out"),
        "data": [{"path": str(data)}],
        "video_root": str(data.parent),
        "per_device_train_batch_size": 2,
        "gradient_checkpointing": False,
        "learning_rate": 1e-3,
        "max_steps": 6,
        "save_steps": 2,
        "dataloader_num_workers": 0,
        **changes,
    }


def write_recipe(path: Path, content: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(content))
    return path
