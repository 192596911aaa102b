"""The reward for key elements: what they retrieve, searched as in inference."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.training.grpo.test_rewards import score
from tests.training.random_examples import row
from videoreasoner.retrieval.search import VideoSearch
from videoreasoner.settings import Settings
from videoreasoner.spans import Span
from videoreasoner.tasks import Task
from videoreasoner.training.grpo.retrieval_reward import KeyElementRetrieval
from videoreasoner.training.grpo.rewards import load_rewards


class ColourEncoder:
    """Three words, and frames of one colour each: a space of three dimensions."""

    name = "colours"
    image_side = None
    colours = ("red", "green", "blue")

    def __init__(self) -> None:
        self.images_encoded = 0

    def encode_texts(self, texts):
        return torch.tensor([[float(c in text) for c in self.colours] for text in texts]) + 1e-3

    def encode_images(self, images):
        self.images_encoded += len(images)
        return torch.from_numpy(images.reshape(len(images), -1, 3).mean(1)).float() + 1e-3


class ColourVideo:
    """Red for ten seconds, then green, then blue, with few key frames."""

    duration_s = 30.0
    frame_times_s = np.arange(300) / 10.0
    key_times_s = np.array([0.0, 19.0, 20.4])

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        pass

    def iter_frames_at(self, times_s, seek="exact", short_side=None):
        for time_s in times_s:
            image = np.zeros((8, 8, 3), dtype=np.uint8)
            image[..., min(int(time_s // 10), 2)] = 200
            yield time_s, image


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("green thing", 1.0),
        ("red thing", 0.0),
        ("green, red", 0.5),
        ("green, red, blue", 1 / 3),
        # Said twice is said once, and only the first two are looked for.
        ("green, Green, red, blue", 0.5),
        ("", 0.0),
        (" , ", 0.0),
    ],
)
def test_key_elements_are_worth_what_they_retrieve(text: str, value: float) -> None:
    settings = Settings(max_key_elements=3 if value == 1 / 3 else 2)
    reward = KeyElementRetrieval(ColourEncoder(), settings, ColourVideo)
    rewards = load_rewards({"key_element_retrieval": 1.0}, {"key_element_retrieval": reward})
    scores = score(rewards, row(event=[10.0, 20.0]), (Task.KEY_ELEMENTS, text))
    assert scores.totals == [pytest.approx(value)]
    rewards.check_tasks([Task.KEY_ELEMENTS])


def test_a_video_is_searched_once_and_other_tasks_not_at_all() -> None:
    encoder = ColourEncoder()
    reward = KeyElementRetrieval(encoder, Settings(), ColourVideo)
    columns = {"event": [[Span(10, 20)]] * 3, "duration": [30.0] * 3, "video": ["a", "a", "b"]}
    values = reward(["?"] * 3, ["green"] * 3, [[1]] * 3, task=["key_elements", "key_elements", "event"], **columns)
    assert values == [1.0, 1.0, None]
    assert encoder.images_encoded == 30
    without = reward(["?"], ["green"], [[1]], task=["key_elements"], event=[None], duration=[30.0], video=["b"])
    assert without == [None]
    assert encoder.images_encoded == 30


@pytest.mark.parametrize(("sparse_seek", "value"), [("exact", 1.0), ("keyframe", 0.0)])
def test_frames_are_searched_as_in_inference(sparse_seek: str, value: float) -> None:
    """The only key frame of the second ten seconds is green as well, but lies behind the event."""
    video, settings = ColourVideo("a"), Settings(retrieval_rate_fps=0.1, sparse_seek=sparse_seek)
    rewards = KeyElementRetrieval(ColourEncoder(), settings, lambda name: video)
    columns = {"event": [[Span(10, 16)]], "duration": [30.0], "video": ["a"], "task": ["key_elements"]}
    search = VideoSearch(ColourEncoder(), settings)
    in_inference = search.keyframes(search.search(video), ["green"])
    assert rewards(["?"], ["green"], [[1]], **columns) == [value]
    assert [columns["event"][0][0].contains(keyframe.time_s) for keyframe in in_inference] == [bool(value)]
