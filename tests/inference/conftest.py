from __future__ import annotations

from pathlib import Path

import pytest

from videoreasoner.inference.reasoner import Reasoner
from videoreasoner.synthetic.videos import VideoSettings, video_world, write_video


@pytest.fixture(scope="module")
def video_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("videos") / "video.mp4"
    made = VideoSettings(duration_s=12.0, size=32, fps=20)
    write_video(path, video_world(made, 0), made)
    return path


@pytest.fixture(scope="module")
def tiny() -> Reasoner:
    return Reasoner.from_pretrained("tiny", device="cpu", max_thought_tokens=24)
