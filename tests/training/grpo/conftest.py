"""Videos and runs that the tests of this folder share."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.training.grpo.runs import PLAIN, REWARDS, recipe, weights
from videoreasoner.models.checkpoint import find_folder
from videoreasoner.synthetic.videos import VideoSettings, make_videos
from videoreasoner.synthetic.world import WorldSettings
from videoreasoner.training.grpo.setup import train_grpo


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    settings = VideoSettings(duration_s=20.0, fps=8.0, size=32, seed=5, world=WorldSettings(events=(2, 2)))
    make_videos(folder, 8, settings, splits=("plain",))
    (folder / "odd.py").write_text(REWARDS)
    return folder


@pytest.fixture(scope="module")
def start() -> dict[str, torch.Tensor]:
    return weights(find_folder("tiny"))


@pytest.fixture(scope="module")
def plain(videos: Path, tmp_path_factory) -> Path:
    return train_grpo(recipe(videos, tmp_path_factory.mktemp("plain") / "out", **PLAIN))
