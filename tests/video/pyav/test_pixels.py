from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageOps

from tests.video.videos import Recipe, picture
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


def _with_exif(folder: Path, suffix: str, orientation: int) -> tuple[Path, np.ndarray]:
    """A picture with EXIF data, and how Pillow shows it upright."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation], exif[ExifTags.Base.Software] = orientation, "camera"
    made = Image.fromarray(picture(3, 64, 48))
    path = folder / f"{orientation}.{'jpg' if suffix in ('avi', 'mov', 'mkv') else suffix}"
    made.save(path, exif=exif, **({"lossless": True} if suffix == "webp" else {}))
    upright = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
    if suffix == path.suffix[1:]:
        return path, upright
    video = folder / f"{orientation}.{suffix}"
    with av.open(str(path), format="jpeg_pipe") as source, av.open(str(video), "w") as copy:
        stream = copy.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate([next(iter(source.demux(video=0)))] * 3):
            packet.stream, packet.pts, packet.dts = stream, number, number
            packet.time_base = Fraction(1, 25)
            copy.mux(packet)
    return video, upright


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "avi", "mov", "mkv"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_with_exif_data_are_shown_upright(suffix: str, orientation: int, tmp_path: Path) -> None:
    path, upright = _with_exif(tmp_path, suffix, orientation)
    with VideoFile(path) as video:
        assert video.problems == []
        shown = video.frames_at([0.0]).pixels[0]
        assert (video.height, video.width) == shown.shape[:2] == upright.shape[:2]
    # Pillow and FFmpeg round the colours of a JPEG differently.
    assert np.abs(shown.astype(int) - upright).mean() < (4 if suffix != "png" and suffix != "webp" else 1)
