"""Small GRPO runs of the shipped tiny model, and how two of them compare."""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
from safetensors.torch import load_file

from videoreasoner.training.grpo.recipe import GrpoRecipe
from videoreasoner.training.grpo.setup import train_grpo
from videoreasoner.training.recipe import parse_recipe

# Rewards of completions of which the model writes good and bad ones from the start, so that every step has a direction.
REWARDS = """
import os
def odd(completions, **_):
    return [sum(map(ord, text)) % 3 / 2 for text in completions]

def different(completions, **_):
    return [float(i) for i in range(len(completions))]

steps = 0

def different_at_first(completions, **_):
    global steps
    steps += 1
    return [float(i) if steps <= 2 else 1.0 for i in range(len(completions))]

def same(completions, **_):
    return [1.0 for _ in completions]

def same_event_odd_answer(completions, task, **_):
    return [0.5 if t == "event" else sum(map(ord, text)) % 2 for text, t in zip(completions, task)]

def without_gradients(completions, **_):
    import torch
    return [float(not torch.is_grad_enabled())] * len(completions)

calls = 0

def first_process_first_query(completions, **_):
    global calls
    calls += 1
    learns = calls == 1 and os.environ["RANK"] == "0"
    return [float(i) if learns else 1.0 for i in range(len(completions))]

def second_digit_is_high(completions, task, **_):
    return [float(t == "event" and text[19:20] in tuple("56789")) for text, t in zip(completions, task)]
"""


# Adam divides a gradient by its size, so that rounding in the smallest would show; plain descent keeps proportions.
PLAIN = {"optim": "sgd", "learning_rate": 0.1, "weight_decay": 0.0}


def recipe(videos: Path, out: Path, **changes) -> GrpoRecipe:
    content = {
        "model_name_or_path": "tiny",
        "output_dir": str(out),
        "data": [{"path": str(videos / "plain.jsonl")}],
        "video_root": str(videos),
        "settings": {"frame_budget": 8},
        "max_steps": 2,
        "save_steps": 2,
        "per_device_train_batch_size": 2,
        "num_generations": 4,
        "max_completion_length": 14,
        "learning_rate": 1e-3,
        "rewards": {f"{videos / 'odd.py'}:odd": 1.0},
        "gradient_checkpointing": False,
        "dataloader_num_workers": 0,
    }
    return parse_recipe({**content, **changes}, GrpoRecipe)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def metrics(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def train(videos: Path, out: Path, **changes) -> dict[str, torch.Tensor]:
    return weights(train_grpo(recipe(videos, out, **changes)))


def assert_close(
    mine: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor], start: dict[str, torch.Tensor]
) -> None:
    """The same training: two ends differ by much less than either moved."""
    moved = math.sqrt(sum(float((theirs[n] - start[n]).square().sum()) for n in theirs))
    apart = math.sqrt(sum(float((mine[n] - theirs[n]).square().sum()) for n in theirs))
    assert moved > 0.1
    assert apart < 1e-5 * moved
