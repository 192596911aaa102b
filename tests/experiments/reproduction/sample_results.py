"""Result files of a reproduction that was never run: random answers to invented questions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from experiments.reproduction.recipe import FOCUS_METRICS, Reproduction, load_reproduction
from experiments.reproduction.results import METRICS, dump
from tests.paths import ROOT

RECIPE, SMOKE = ROOT / "experiments" / "recipes" / "reproduce.yaml", ROOT / "experiments" / "recipes" / "smoke.yaml"
_AMOUNTS = ("seconds", "tokens_out", "event_iou", "keyframes_in_event")


def make_results(folder: Path, recipe: Reproduction, videos: int, seed: int = 0) -> None:
    """Write all result files of a recipe, in the form that `collect` gives them."""
    rng = np.random.default_rng(seed)
    splits = ["plain", "detail"] * videos
    contents: dict[str, Any] = {
        "recipe": recipe.model_dump(mode="json"),
        "questions": {
            "data_hash": "0123456789abcdef",
            "ids": [f"synthetic-held_out-{n // 2}-{split}" for n, split in enumerate(splits)],
            "videos": [f"videos/{n // 2:05d}.mp4" for n in range(2 * videos)],
            "splits": splits,
        },
    }
    names = []
    for name, variant in recipe.variants.items():
        seeds = recipe.seeds_of(name)
        evaluations = [
            {"seed": s, "mode": mode, "model_hash": "fedcba9876543210", "columns": _columns(rng, mode, 2 * videos)}
            for s in seeds
            for mode in variant.modes
        ]
        curves = [_curves(rng, s, variant.train) for s in seeds if variant.train is not None]
        contents[f"variants/{name}"] = {"evaluations": evaluations, "curves": curves}
        labels = [name if s is None else f"{name}-{s}" for s in seeds]
        names += [f"train-{label}" for label in labels if variant.train]
        names += [f"eval-{label}-{mode}" for label in labels for mode in variant.modes]
    contents["made"] = {
        "date": "2026-01-02",
        "wall_seconds": 3000,
        "machines": [{"system": "Linux x86_64", "cores": 2, "gpu": None}],
        "versions": [{"videoreasoner": "0.1.0"}, {"videoreasoner": "0.1.1"}],
        "jobs": [{"name": name, "seconds": 61.5, "cpu_seconds": 60.0, "starts": 1} for name in names],
    }
    (folder / "variants").mkdir(parents=True)
    for name, content in contents.items():
        (folder / f"{name}.json").write_text(dump(content))


def _columns(rng: np.random.Generator, mode: str, questions: int) -> dict[str, list[float]]:
    return {
        metric: (rng.random(questions).round(4) if metric in _AMOUNTS else rng.integers(0, 2, questions)).tolist()
        for metric in METRICS
        if mode == "focus" or metric not in FOCUS_METRICS
    }


def _curves(rng: np.random.Generator, seed: int | None, kind: str) -> dict[str, Any]:
    names = ("reward/event_iou", "reward/accuracy", "kl", "parse_rate") if kind == "grpo" else ("loss", "parse_rate")
    values: dict[str, list[float | None]] = {
        name: (np.linspace(0.2, 0.8, 100) + 0.05 * rng.standard_normal(100)).round(4).tolist() for name in names
    }
    # Cold starts sample outputs only now and then.
    values["parse_rate"] = [value if n % 4 == 0 else None for n, value in enumerate(values["parse_rate"])]
    return {"seed": seed, "step": list(range(3, 303, 3)), "values": values}


def shipped_recipe(seeds: int | None = None) -> Reproduction:
    return load_reproduction(RECIPE, seeds=seeds)
