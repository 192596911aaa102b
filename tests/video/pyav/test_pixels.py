from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.video.videos import Recipe
from videoreasoner.video.pyav.file import VideoFile
from videoreasoner.video.pyav.pixels import Shape, Upright

SIDES = st.integers(1, 5000)


@given(SIDES, SIDES, st.integers(1, 3000))
def test_scaling_bounds_the_shorter_side_keeps_the_shape_and_never_enlarges(
    width: int, height: int, short_side: int
) -> None:
    shape = Shape(width, height, Upright())
    scaled = shape.scaled(short_side)
    assert min(scaled.width, scaled.height) == min(width, height, short_side)
    assert shape.scaled(None) == shape
    scale = min(1.0, short_side / min(width, height))
    assert abs(scaled.width - width * scale) <= 0.5
    assert abs(scaled.height - height * scale) <= 0.5


@pytest.fixture(scope="module", params=[0, 90])
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe = Recipe("video.mp4", count=12, size=(160, 96), turned_left_deg=request.param)
    return recipe.make(tmp_path_factory.mktemp("videos"))


def test_a_scaled_pixel_is_the_mean_of_what_it_covers(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(60, 190, (96, 160, 3), np.uint8)
    path = tmp_path / "noise.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv444p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(noise, format="rgb24")))
        container.mux(stream.encode())
    with VideoFile(path) as video:
        full, small = video.frames_at([0.0]), video.frames_at([0.0], short_side=24)
    assert small.pixels.shape == (1, 24, 40, 3)
    means = full.pixels[0].reshape(24, 4, 40, 4, 3).mean((1, 3))
    # Single pixels of the noise are some 37 away from the mean around them.
    assert np.abs(small.pixels[0] - means).mean() < 3


@pytest.mark.parametrize("short_side", [None, 96, 10_000])
def test_frames_of_full_size_are_those_that_a_model_sees(path: Path, short_side: int | None) -> None:
    with VideoFile(path) as video:
        expected = video.frames_at([0.0, 0.4]).pixels
        assert np.array_equal(video.frames_at([0.0, 0.4], short_side=short_side).pixels, expected)
        each = [image for _, image in video.iter_frames_at([0.0, 0.4], short_side=short_side)]
        assert np.array_equal(each, expected)


def test_what_is_done_to_a_frame_does_not_reach_the_decoder(tmp_path: Path) -> None:
    path = Recipe("raw.avi", codec="rawvideo", count=12, pixel_format="rgb24").make(tmp_path)
    with VideoFile(path) as video:
        times_s = video.frame_times_s
        expected = video.frames_at(times_s).pixels.copy()
        for _, image in video.iter_frames_at(times_s):
            image[:] = 0
        assert np.array_equal(video.frames_at(times_s).pixels, expected)
