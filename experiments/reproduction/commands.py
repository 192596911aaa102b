"""The `videoreasoner` commands of a recipe, and which of them need which. Nothing is run here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.reproduction.jobs import Command
from experiments.reproduction.recipe import Reproduction, VideoSet
from videoreasoner.training.grpo.recipe import GrpoRecipe
from videoreasoner.training.recipe import FREE_FIELDS, ColdStartRecipe, load_recipe
from videoreasoner.utils.hashing import hash_data


def list_commands(recipe: Reproduction) -> dict[str, Command]:
    """All commands of a recipe by name, each after the commands that it needs.

    Raises:
        SettingError: the recipe of a training cannot be read, or a change to it makes no sense.
    """
    out, sets = Path(recipe.out_dir), recipe.videos
    commands: dict[str, Command] = {}

    def add(name: str, arguments: Sequence[str], folder: Path, needs: Sequence[str], content: Any = None) -> None:
        identity = hash_data([content or arguments, [commands[need].hash for need in needs]])
        commands[name] = Command(name, list(arguments), out, folder, list(needs), identity)

    def make_videos(name: str, videos: VideoSet, seed: int, subset: str) -> None:
        folder = out / "videos" / name
        asked = [*_video_options(videos, sets.size), "--seed", str(seed), "--subset", subset]
        add(f"videos-{name}", ["synthetic", "make", str(folder), *asked], folder, [])

    make_videos("watched", sets.watched, sets.watched.seed, "held_out")
    for seed in recipe.seeds:
        make_videos(f"cold_start-{seed}", sets.cold_start, sets.cold_start.seed + seed, "train")
        make_videos(f"queries-{seed}", sets.queries, sets.queries.seed + seed, "train")
    benchmark = [*_video_options(sets.evaluation, sets.size), "--seed", str(sets.evaluation.seed)]
    benchmark += ["--videos-dir", str(out / "videos" / "evaluation")]
    first_evaluation: list[str] = []
    for name, variant in recipe.variants.items():
        for seed_or_none in recipe.seeds_of(name):
            label, model, needs = name, str(variant.model), list[str]()
            if seed_or_none is not None:
                label = f"{name}-{seed_or_none}"
                model, needs = str(out / "models" / label), [f"train-{label}"]
                add(f"train-{label}", *_training(recipe, name, seed_or_none))
            for mode in variant.modes:
                folder = out / "runs" / f"{label}-{mode}"
                arguments = ["eval", "synthetic", "--model", model, "--mode", mode, *benchmark, "--out", str(folder)]
                add(f"eval-{label}-{mode}", arguments, folder, needs + first_evaluation)
                # The first evaluation makes the videos of the benchmark.
                first_evaluation = first_evaluation or [f"eval-{label}-{mode}"]
    return commands


def _video_options(videos: VideoSet, size: int) -> list[str]:
    shares, events = map(str, videos.event_share), map(str, videos.events)
    counts = ["--videos", str(videos.videos), "--questions", str(videos.questions), "--size", str(size)]
    return [*counts, "--events", *events, "--event-share", *shares]


def _training(recipe: Reproduction, name: str, seed: int) -> tuple[list[str], Path, list[str], Any]:
    """Arguments, folder, needed commands and content of one training."""
    out, variant = Path(recipe.out_dir), recipe.variants[name]
    assert variant.start is not None
    assert variant.train is not None
    start, training = recipe.variants[variant.start], recipe.training[variant.train]
    folder, watched = out / "models" / f"{name}-{seed}", out / "videos" / "watched"
    videos = out / "videos" / f"{variant.rows}-{seed}"
    changes: dict[str, Any] = {
        **training.changes,
        **variant.changes,
        "model_name_or_path": start.model or str(out / "models" / f"{variant.start}-{seed}"),
        "output_dir": str(folder),
        "data": [{"path": str(videos / f"{split}.jsonl")} for split in getattr(recipe.videos, variant.rows).splits],
        "video_root": str(videos),
        # GRPO logs its own rollouts at every step instead.
        "eval_data": []
        if variant.train == "grpo"
        else [{"path": str(watched / "plain.jsonl"), "video_root": str(watched)}],
        "frame_cache_dir": str(out / "frames"),
        "seed": seed,
    }
    overrides = [f"{key}={json.dumps(value)}" for key, value in changes.items()]
    kind = GrpoRecipe if variant.train == "grpo" else ColdStartRecipe
    read = load_recipe(Path(training.recipe), kind, overrides)
    # How the rows of a step are split into micro-batches is free; how many rows a step has is not.
    rows = read.per_device_train_batch_size * read.gradient_accumulation_steps
    content = [read.model_dump(mode="json", exclude=set(FREE_FIELDS)), rows]
    arguments = ["train", variant.train, training.recipe, *(word for item in overrides for word in ("--set", item))]
    needs = [f"videos-{variant.rows}-{seed}", "videos-watched"]
    return arguments, folder, needs + ([] if start.train is None else [f"train-{variant.start}-{seed}"]), content
