"""Answers and training steps give the numbers that the first version of this code gave.

`data/recorded_numbers.json` was recorded with version d3de45a, before the code was rebuilt:

    videoreasoner synthetic make DATA --films 4 --seed 77 --size 96 --duration 20 --fps 8
    videoreasoner ask --batch DATA/plain.jsonl --video-root DATA --out ANSWERS.jsonl
    videoreasoner train cold-start recipes/cold_start/tiny.yaml and grpo recipes/grpo/tiny.yaml, three steps each

with one thread and the settings below. Answers and GRPO are the same to the last digit on the machine that recorded
them. The cold start computes logits only where each row needs them, so its losses differ by about 1e-6.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from tests.paths import ROOT
from videoreasoner.inference.batch import answer_rows
from videoreasoner.inference.reasoner import Reasoner
from videoreasoner.synthetic.videos import VideoSettings, make_videos
from videoreasoner.training.cold_start import train_cold_start
from videoreasoner.training.grpo.recipe import GrpoRecipe
from videoreasoner.training.grpo.setup import train_grpo
from videoreasoner.training.recipe import ColdStartRecipe, load_recipe

RECORDED = json.loads((ROOT / "tests" / "data" / "recorded_numbers.json").read_text())


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recorded")
    make_videos(folder, 4, VideoSettings(duration_s=20.0, fps=8, size=96, seed=77))
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in (folder / "videos").iterdir()}
    if found != RECORDED["videos"]:
        pytest.skip("the H.264 encoder of this machine makes other bytes of the same videos")
    return folder


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_answers(data: Path, tmp_path: Path) -> None:
    reasoner = Reasoner.from_pretrained("tiny", device="cpu")
    answer_rows(reasoner, data / "plain.jsonl", tmp_path / "answers.jsonl", video_root=data)
    found = lines(tmp_path / "answers.jsonl")
    assert len(found) == len(RECORDED["answers"])
    for mine, expected in zip(found, RECORDED["answers"], strict=True):
        for name in ("id", "text", "choice", "event", "key_elements"):
            assert mine[name] == expected[name], name
        assert mine["confidence"] == pytest.approx(expected["confidence"], abs=1e-6)
        assert [keyframe["time_s"] for keyframe in mine["keyframes"]] == expected["keyframes"]
        assert [frame["time_s"] for frame in mine["frames"]] == expected["frames"]


def changes(data: Path, out: Path, **more: Any) -> list[str]:
    values = {
        "data": [{"path": str(data / "plain.jsonl")}], "video_root": str(data), "eval_data": [],
        "output_dir": str(out), "frame_cache_dir": None, "dataloader_num_workers": 0, "max_steps": 3, "save_steps": 3,
        "warmup_steps": 0, **more,
    }  # fmt: skip
    return [f"{name}={json.dumps(value)}" for name, value in values.items()]


def assert_recorded(metrics: list[dict[str, Any]], name: str) -> None:
    assert len(metrics) == len(RECORDED[name])
    for mine, expected in zip(metrics, RECORDED[name], strict=True):
        for metric, value in expected.items():
            assert mine[metric] == pytest.approx(value, rel=1e-5, abs=2e-6), (mine["step"], metric)


def test_cold_start(data: Path, tmp_path: Path) -> None:
    recipe = ROOT / "recipes" / "cold_start" / "tiny.yaml"
    more = changes(data, tmp_path / "out", per_device_train_batch_size=4)
    train_cold_start(load_recipe(recipe, ColdStartRecipe, more))
    assert_recorded(lines(tmp_path / "out" / "metrics.jsonl"), "cold_start")


def test_grpo(data: Path, tmp_path: Path) -> None:
    recipe = ROOT / "recipes" / "grpo" / "tiny.yaml"
    more = changes(data, tmp_path / "out", per_device_train_batch_size=2, num_generations=4, model_name_or_path="tiny")
    train_grpo(load_recipe(recipe, GrpoRecipe, more))
    assert_recorded(lines(tmp_path / "out" / "metrics.jsonl"), "grpo")
    rollouts = lines(tmp_path / "out" / "rollouts.jsonl")
    names = RECORDED["rollouts"][0].keys()
    assert [{name: record[name] for name in names} for record in rollouts] == RECORDED["rollouts"]
