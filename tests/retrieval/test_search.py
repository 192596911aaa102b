"""The search: which frames it looks at, in which batches, and what it finds in a real video."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.fake_engine import FakeEncoder
from videoreasoner.retrieval.encoder import load_encoder
from videoreasoner.retrieval.keyframes import retrieval_times
from videoreasoner.retrieval.search import VideoSearch
from videoreasoner.retrieval.search_times import sparse_key_times
from videoreasoner.settings import Settings
from videoreasoner.synthetic.videos import VideoSettings, make_videos, video_world, write_video
from videoreasoner.utils.stopwatch import Stopwatch
from videoreasoner.video.isolated.file import GuardedVideoFile
from videoreasoner.video.pyav.file import VideoFile


@pytest.fixture(scope="module")
def video_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("videos") / "video.mp4"
    made = VideoSettings(duration_s=24.0, size=32, fps=20, gop_s=1.5)
    write_video(path, video_world(made, 0), made)
    return path


@pytest.mark.parametrize("sparse_seek", ["exact", "keyframe"])
def test_settings_decide_which_frames_are_searched(video_file: Path, sparse_seek: str) -> None:
    settings = Settings(retrieval_rate_fps=0.5, retrieval_max_frames=10, sparse_seek=sparse_seek)
    encoder = FakeEncoder()
    with VideoFile(video_file) as video:
        search = VideoSearch(encoder, settings)
        searched = search.search(video)
        keys_s = video.key_times_s
        expected = retrieval_times(24.0, 0.5, 10, keys_s if sparse_seek == "keyframe" else ())
        assert search.times(video).tolist() == expected.tolist()
        assert len(sparse_key_times(video, settings)) == (len(keys_s) if sparse_seek == "keyframe" else 0)
        assert searched.times_s.tolist() == video.frames_at(expected).times_s.tolist()
    assert len(searched) == encoder.images == 10
    assert (set(searched.times_s) <= set(keys_s)) == (sparse_seek == "keyframe")


@pytest.mark.parametrize("limit", [1, 5 * 32 * 32 * 3, 2**28])
def test_batches_are_bounded_and_change_nothing(video_file: Path, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("videoreasoner.retrieval.search._BATCH_BYTES", limit)
    sizes: list[int] = []

    class Recording(FakeEncoder):
        def encode_images(self, images):
            sizes.append(len(images))
            return super().encode_images(images)

    stopwatch = Stopwatch()
    with VideoFile(video_file) as video:
        search = VideoSearch(Recording(), Settings(), stopwatch)
        searched = search.search(video)
    most = {1: 1, 5 * 32 * 32 * 3: 5, 2**28: 24}[limit]
    assert sizes == [most] * (24 // most) + [24 % most] * bool(24 % most)
    assert searched.features.argmax(1).tolist() == list(range(24))
    assert stopwatch.seconds["retrieve"] > 0
    assert [round(k.time_s, 6) for k in search.keyframes(searched, ["7", "20"])] == [7.5, 20.5]


def test_blank_and_repeated_elements_are_not_encoded_and_only_the_first_few_are(video_file: Path) -> None:
    encoder = FakeEncoder()
    with VideoFile(video_file) as video:
        search = VideoSearch(encoder, Settings(max_key_elements=2))
        searched = search.search(video)
    found = search.keyframes(searched, [" 3 ", "", "3", "5", "7"])
    assert encoder.texts == ["3", "5"]
    assert {keyframe.element for keyframe in found} == {"3", "5"}
    assert search.keyframes(searched, [" "]) == search.keyframes(searched, []) == []


def test_the_shipped_encoder_finds_what_a_video_shows(tmp_path: Path) -> None:
    """In videos of the synthetic world, whose rows say when their element can be seen."""
    rows = make_videos(tmp_path, 4, VideoSettings(seed=3, subset="held_out"), splits=["plain"])
    search = VideoSearch(load_encoder("tiny-encoder"), Settings(retrieval_rate_fps=2.0))
    inside = []
    for row in rows:
        with VideoFile(row.video_path(tmp_path)) as video:
            searched = search.search(video)
        [keyframe] = search.keyframes(searched, row.key_elements)
        inside.append(any(event.contains(keyframe.time_s) for event in row.event))
        assert np.isfinite(keyframe.score)
    assert sum(inside) >= 3


class SmallEncoder(FakeEncoder):
    """Its features are the picture itself, on a coarse grid."""

    image_side = 224

    def encode_images(self, images):
        height, width = (side // 8 * 8 for side in images.shape[1:3])
        cells = images[:, :height, :width].reshape(len(images), 8, height // 8, 8, width // 8, 3).mean((2, 4)) - 128
        self.images += len(images)
        return torch.nn.functional.normalize(torch.from_numpy(cells).float().flatten(1), dim=-1)


@pytest.mark.parametrize("seek", ["auto", "keyframe"])
def test_frames_are_scaled_down_for_the_search_and_show_the_same(tmp_path: Path, seek: str) -> None:
    made = VideoSettings(duration_s=6.0, size=448, fps=25, gop_s=2.0)
    write_video(tmp_path / "large.mp4", video_world(made, 1), made)
    with VideoFile(tmp_path / "large.mp4") as here, GuardedVideoFile(tmp_path / "large.mp4") as there:
        full = VideoSearch(SmallEncoder(), Settings(retrieval_seek="exact"))
        small = VideoSearch(SmallEncoder(), Settings(retrieval_seek=seek))
        assert (full.short_side, small.short_side) == (None, 224)
        found, guarded = small.search(here), small.search(there)
        assert torch.equal(found.features, guarded.features)
        assert found.times_s.tolist() == guarded.times_s.tolist()
        large = full.encode(here.iter_frames_at(small.times(here)), here.duration_s)
        assert (found.features * large.features).sum(1).min() > 0.999
        # True times: each is that of a frame that the video shows.
        assert set(found.times_s) <= set(here.frame_times_s if seek == "auto" else here.key_times_s)
