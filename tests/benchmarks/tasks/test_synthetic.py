from __future__ import annotations

import itertools
import os
from pathlib import Path

import numpy as np
import pytest
import yaml

from experiments.tiny import stages as tiny
from tests.paths import ROOT
from videoreasoner.benchmarks.tasks.synthetic import (
    DEFAULT_SEED,
    FIRST_HELD_OUT_SEED,
    held_out_settings,
    synthetic_benchmark,
)
from videoreasoner.cli import evaluate
from videoreasoner.errors import SettingError
from videoreasoner.rows import read_rows
from videoreasoner.spans import Span, iou
from videoreasoner.synthetic.videos import VideoSettings, video_world
from videoreasoner.synthetic.world import COLORS, SHAPES, World, is_held_out, random_world

SMALL = {"duration_s": 8.0, "size": 16, "fps": 20.0}


def pairs(worlds: list[World]) -> set[tuple[str, str]]:
    return {(event.color, event.shape) for world in worlds for event in world.events}


def test_held_out_pairs_never_appear_in_videos_to_train_on() -> None:
    trained_on = pairs([video_world(VideoSettings(seed=seed), n) for seed in range(8) for n in range(100)])
    # As the training examples of the shipped models are drawn.
    rng = np.random.default_rng([4, 2])
    trained_on |= pairs([random_world(rng, VideoSettings().world) for _ in range(500)])
    evaluated_on = pairs([video_world(held_out_settings(), n) for n in range(500)])
    assert not trained_on & evaluated_on
    everything = set(itertools.product(COLORS, SHAPES))
    # Both sides are as large as can be, so that the comparison above is about all there is.
    assert evaluated_on == {c for c in everything if is_held_out(*c)}
    assert trained_on == {c for c in everything if not is_held_out(*c)}


def test_held_out_seeds_are_above_all_that_training_uses() -> None:
    with pytest.raises(SettingError, match="may have been trained on"):
        held_out_settings(FIRST_HELD_OUT_SEED - 1)
    assert held_out_settings(FIRST_HELD_OUT_SEED).subset == "held_out"
    seeds = [stage.seed for stage in (*tiny.BASE_STAGES, *tiny.TASK_STAGES)]
    for recipe in (ROOT / "recipes").rglob("*.yaml"):
        content = yaml.safe_load(recipe.read_text())
        # The one place of a recipe that speaks of evaluation: see tests/experiments/reproduction/test_recipe.py.
        content.get("videos", {}).pop("evaluation", None)
        seeds += _seeds(content)
    assert seeds
    assert max(seeds) < FIRST_HELD_OUT_SEED <= DEFAULT_SEED
    # The commands state it too, without importing what takes seconds to import.
    assert evaluate._SEED == DEFAULT_SEED


def _seeds(content: object) -> list[int]:
    """Every whole number under a key that speaks of seeds."""
    if isinstance(content, dict):
        own = [v for k, v in content.items() if "seed" in str(k) for v in (v if isinstance(v, list) else [v])]
        return [v for v in own if isinstance(v, int)] + [s for v in content.values() for s in _seeds(v)]
    if isinstance(content, list):
        return [s for v in content for s in _seeds(v)]
    return []


def test_videos_are_made_once_for_all_that_ask_about_them(tmp_path: Path) -> None:
    settings = held_out_settings(**SMALL)
    many = synthetic_benchmark(tmp_path, 3, settings)
    made = {path: os.stat(path).st_mtime_ns for path in many.video_root.rglob("*.mp4")}
    assert len(made) == 3
    few = synthetic_benchmark(tmp_path, 2, settings, ["detail"])
    assert few.video_root == many.video_root
    assert {path: os.stat(path).st_mtime_ns for path in few.video_root.rglob("*.mp4")} == made
    assert [row.id for row in few.rows] == [row.id for row in many.rows if row.id.endswith("detail-0")][:2]
    assert {row.model_extra["split"] for row in many.rows if row.model_extra} == {"plain", "detail"}
    other = synthetic_benchmark(tmp_path, 2, held_out_settings(DEFAULT_SEED + 1, **SMALL))
    assert other.video_root != many.video_root


def test_a_large_set_that_was_stopped_leaves_small_ones_small(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        synthetic_benchmark(tmp_path, 50, held_out_settings(**SMALL), ["plain"], progress=stop)
    counted: list[tuple[int, int]] = []
    benchmark = synthetic_benchmark(
        tmp_path, 1, held_out_settings(**SMALL), ["plain"], progress=lambda *of: counted.append(of)
    )
    assert (len(benchmark.rows), counted) == (1, [(1, 1)])


def test_a_benchmarks_rows_hold_no_reasoning_and_are_otherwise_those_of_the_video(tmp_path: Path) -> None:
    benchmark = synthetic_benchmark(tmp_path, 2, held_out_settings(**SMALL))
    made = {row.id: row for split in ("plain", "detail") for row in read_rows(benchmark.video_root / f"{split}.jsonl")}
    for row in benchmark.rows:
        known = {**row.model_dump(exclude_unset=True), "reasoning": made[row.id].reasoning}
        assert row.reasoning is None
        assert known.pop("groups")
        assert known == made[row.id].model_dump(exclude_unset=True)


def test_the_hash_is_that_of_rows_and_videos(tmp_path: Path) -> None:
    settings = held_out_settings(**SMALL)
    first = synthetic_benchmark(tmp_path / "a", 2, settings)
    assert synthetic_benchmark(tmp_path / "b", 2, settings).data_hash == first.data_hash
    assert synthetic_benchmark(tmp_path / "a", 1, settings).data_hash != first.data_hash
    assert synthetic_benchmark(tmp_path / "a", 2, settings, ["plain"]).data_hash != first.data_hash
    video_file = first.video_root / "videos" / "00001.mp4"
    video_file.write_bytes(video_file.read_bytes() + b"\0")
    assert synthetic_benchmark(tmp_path / "a", 2, settings).data_hash != first.data_hash


def test_evidence_counts_as_seen_while_it_shows(tmp_path: Path) -> None:
    benchmark = synthetic_benchmark(tmp_path, 2, held_out_settings(**SMALL))
    row = next(row for row in benchmark.rows if "detail" in row.id)
    assert row.event
    [event] = row.event
    start, end = (row.model_extra or {})["visible_s"]
    answer = {
        "choice": row.answer, "duration_s": 8.0, "settings": {"encoder": "some"}, "keyframes": [{"time_s": start}],
        "completions": {"answer": "", "event": "nothing", "key_elements": ""},
    }  # fmt: skip
    for time_s, seen in ((start, 1.0), (end, 0.0), ((start + end) / 2, 1.0), (start - 0.01, 0.0)):
        scores = benchmark.scores(row, {**answer, "frames": [{"time_s": time_s}]})
        assert scores["evidence_seen"] == seen
    assert scores["keyframes_in_event"] == 1.0
    assert (scores["event_iou"], scores["event_parsed"]) == (0.0, 0.0)
    assert scores["event_iou_middle"] == pytest.approx(iou(Span(2.8, 5.2), event))
    assert benchmark.groups(row) == {"split": "detail", "events": str(len(video_world(held_out_settings(), 0).events))}
