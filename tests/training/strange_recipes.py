"""Recipes that are spoiled by a seed: read, planned in a dry run, or refused in one line."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from experiments.reproduction.recipe import load_reproduction
from tests.mutation import damage, mutated
from tests.paths import ROOT
from videoreasoner.errors import VideoReasonerError
from videoreasoner.training.catalog import FOLDER
from videoreasoner.training.grpo.recipe import GrpoRecipe
from videoreasoner.training.planning.dry_run import dry_run
from videoreasoner.training.planning.memory import Hardware
from videoreasoner.training.recipe import ColdStartRecipe, load_recipe

# Values as YAML writes them, which no mutation of the content makes.
_WRITTEN = (
    "2026-99-99", "2026-02-30T25:00:00", "!!int x", "!!int ''", "!!bool x", "!!timestamp x", "!!float x", "9" * 5000,
    "[" * 3000, "{a: " * 3000, '"\\0"', "&a [*a]", "!!python/object/apply:os.getcwd []", "<<: x", "? [a]\n: b", "=",
    "~", "1:99:99", "0o9", "a" * 5000, "/dev/zero", "..",
)  # fmt: skip


def _plan(kind: Any) -> Callable[[Path], Any]:
    return lambda path: dry_run(load_recipe(path, kind), Hardware(1, "ddp", 80.0, None))


KINDS: dict[str, tuple[Path, Callable[[Path], Any]]] = {
    "cold-start": (FOLDER / "cold_start" / "tiny.yaml", _plan(ColdStartRecipe)),
    "grpo": (FOLDER / "grpo" / "tiny.yaml", _plan(GrpoRecipe)),
    "reproduction": (ROOT / "experiments" / "recipes" / "reproduce.yaml", load_reproduction),
}


def spoil(text: str, rng: random.Random) -> bytes:
    how = rng.random()
    if how < 0.2:
        return damage(text.encode(), rng)
    if how < 0.5:
        keys = list(yaml.safe_load(text))
        key = rng.choice([*keys, "base"])
        content = {k: v for k, v in yaml.safe_load(text).items() if k != key}
        return f"{yaml.safe_dump(content)}{key}: {rng.choice(_WRITTEN)}\n".encode()
    return yaml.safe_dump(mutated(yaml.safe_load(text), rng, ("base", "num_generations", "settings"))).encode()


def try_one(kind: str, seed: int, path: Path) -> str:
    """ "read" or "refused"; any other error passes through, with the seed in its notes."""
    source, use = KINDS[kind]
    path.write_bytes(spoil(source.read_text(encoding="utf-8"), random.Random(seed)))
    try:
        use(path)
    except VideoReasonerError:
        return "refused"
    except Exception as error:
        error.add_note(f"recipe {kind}, seed {seed}")
        raise
    return "read"
