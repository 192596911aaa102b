"""A training run that kills itself, for test_resume.py."""

from __future__ import annotations

import os
import signal
from typing import Any

import torch

from videoreasoner.training.cold_start import train_cold_start
from videoreasoner.training.recipe import ColdStartRecipe, parse_recipe

PLACES: dict[str, tuple[Any, str]] = {
    "step": (torch.optim.AdamW, "step"),
    "torch.save": (torch, "save"),
    "rename": (os, "rename"),
    "replace": (os, "replace"),
    "fsync": (os, "fsync"),
}


def run(content: dict[str, Any], place: str | None = None, call: int = 0) -> None:
    """Train a recipe; at the given call of a function, die the way `kill -9` kills."""
    torch.set_num_threads(1)
    if place is not None:
        owner, name = PLACES[place]
        original, calls = getattr(owner, name), [0]

        def fatal(*arguments: Any, **named: Any) -> Any:
            calls[0] += 1
            if calls[0] == call:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments, **named)

        setattr(owner, name, fatal)
    train_cold_start(parse_recipe(content, ColdStartRecipe))
