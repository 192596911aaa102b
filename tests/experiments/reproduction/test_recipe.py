from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from experiments.reproduction.recipe import load_reproduction
from tests.experiments.reproduction.sample_results import RECIPE, SMOKE, shipped_recipe
from videoreasoner.benchmarks.tasks.synthetic import DEFAULT_SEED, FIRST_HELD_OUT_SEED, held_out_settings
from videoreasoner.errors import SettingError
from videoreasoner.synthetic.videos import VideoSettings, video_world
from videoreasoner.synthetic.world import is_held_out


def test_the_sizes_and_variants_are_the_agreed_ones() -> None:
    recipe = shipped_recipe()
    assert (recipe.videos.cold_start.rows, recipe.videos.queries.rows, len(recipe.seeds)) == (3000, 5000, 3)
    modes = {name: variant.modes for name, variant in recipe.variants.items()}
    chains = {name: modes.pop(name) for name in ("think-cold-start", "think")}
    assert list(modes) == ["base", "cold-start", "sft", "grpo-event", "grpo-answer", "grpo-both", "grpo-both-key"]
    assert all(found == ["direct", "focus"] for found in modes.values())
    assert all(found == ["think"] for found in chains.values())
    assert list(recipe.claims) == ["C1", "C2", "C3", "C4", "C5", "C6"]


def test_the_smoke_run_differs_only_in_sizes_and_places() -> None:
    full, smoke = shipped_recipe(), load_reproduction(SMOKE)
    assert (smoke.variants, smoke.claims) == (full.variants, full.claims)
    assert {kind: training.recipe for kind, training in smoke.training.items()} == {
        kind: training.recipe for kind, training in full.training.items()
    }
    assert (smoke.smoke, full.smoke) == (True, False)
    assert smoke.videos.evaluation.rows < 10
    assert Path(smoke.results_dir).is_relative_to(smoke.out_dir)


def test_nothing_that_is_evaluated_on_was_trained_on() -> None:
    """Neither a seed nor a pair of colour and shape."""
    recipe = shipped_recipe()
    videos = recipe.videos
    trained_on: set[tuple[str, str]] = set()
    seeds: list[int] = []
    for videos_of, seed in itertools.product((videos.cold_start, videos.queries), recipe.seeds):
        settings = VideoSettings(size=videos.size, seed=videos_of.seed + seed, world=videos_of.world)
        seeds.append(settings.seed)
        worlds = [video_world(settings, number) for number in range(videos_of.videos)]
        trained_on |= {(event.color, event.shape) for world in worlds for event in world.events}
    settings = held_out_settings(videos.evaluation.seed, size=videos.size, world=videos.evaluation.world)
    worlds = [video_world(settings, number) for number in range(videos.evaluation.videos)]
    evaluated_on = {(event.color, event.shape) for world in worlds for event in world.events}
    assert not trained_on & evaluated_on
    assert len(evaluated_on) == 6
    assert all(is_held_out(*found) for found in evaluated_on)
    assert len(set(seeds)) == len(seeds)
    assert max(*seeds, videos.watched.seed) < FIRST_HELD_OUT_SEED <= videos.evaluation.seed
    # These seeds were evaluated on before: see docs/tiny-model.md.
    assert videos.evaluation.seed not in {DEFAULT_SEED, 20_261_123, 20_261_125, 20_261_126}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("variants.sft.titel=x", "there is no key variants.sft.titel; did you mean title?"),
        ("variants.sft.start=grpo-both", "'grpo-both' is not an earlier variant"),
        ("variants.sft.start=null", "variants.sft: give either model or start"),
        ("variants.base.train=grpo", "variants.base: start and train must be given together"),
        ("training={cold-start: {recipe: recipes/cold_start/tiny.yaml}}", "'grpo' is not a key of training"),
        ("claims.C1.tests.0.variant=other", "no variant 'other' is evaluated"),
        ("claims.C1.tests.0.mode=direct", "event_parsed is only measured in mode focus"),
        ("claims.C2.tests.0.value=1", "give either over or value"),
        ("videos.evaluation.seed=7", "are for evaluation"),
        ("videos.queries.seed=20000000", "are for evaluation"),
        ("videos.queries.seed=501", "share a seed"),
        ("videos.evaluation.splits=[plain]", "videos.evaluation: always has both splits"),
        ("seeds=[1, 1]", "one is there twice"),
    ],
)
def test_what_makes_no_sense_is_refused(change: str, message: str) -> None:
    with pytest.raises(SettingError, match=message.replace("?", r"\?")):
        load_reproduction(RECIPE, [change])


@pytest.mark.parametrize(("seeds", "taken"), [(None, [0, 1, 2]), (1, [0]), (3, [0, 1, 2])])
def test_the_first_seeds_are_taken(seeds: int | None, taken: list[int]) -> None:
    assert shipped_recipe(seeds).seeds == taken


@pytest.mark.parametrize("seeds", [0, 4])
def test_more_seeds_than_there_are_are_refused(seeds: Any) -> None:
    with pytest.raises(SettingError, match="give 1 to 3"):
        shipped_recipe(seeds)
