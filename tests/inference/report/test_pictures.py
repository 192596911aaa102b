from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.video.videos import Recipe, picture
from videoreasoner.inference.report.pictures import PagePicture, count_uses, take_pictures
from videoreasoner.video.pyav.file import VideoFile

TIMES = [i / 25 for i in range(50)]


@pytest.fixture(scope="module")
def video_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VideoFile]:
    recipe = Recipe("video.mp4", count=50, size=(640, 360))
    with VideoFile(recipe.make(tmp_path_factory.mktemp("videos"))) as opened:
        yield opened


def _decoded(shot: PagePicture) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(shot.uri.partition(",")[2])))


def test_each_picture_shows_its_frame(video_file: VideoFile) -> None:
    shots = take_pictures(video_file, count_uses([TIMES[7], TIMES[31]]), 10**6)
    assert list(shots) == [TIMES[7], TIMES[31]]
    for time_s, number in ((TIMES[7], 7), (TIMES[31], 31)):
        image = _decoded(shots[time_s])
        assert (shots[time_s].width, shots[time_s].height) == image.size == (320, 180)
        true = Image.fromarray(picture(number, 640, 360)).resize((320, 180))
        difference = np.abs(np.asarray(image.convert("RGB"), float) - np.asarray(true, float)).mean()
        other = Image.fromarray(picture(number + 12, 640, 360)).resize((320, 180))
        assert difference < np.abs(np.asarray(image.convert("RGB"), float) - np.asarray(other, float)).mean() / 2


@pytest.mark.parametrize("limit", [2_000_000, 300_000, 100_000, 40_000, 10_000, 1_000, 0])
def test_the_limit_holds_and_is_used(video_file: VideoFile, limit: int) -> None:
    uses = count_uses(TIMES, TIMES[:5])
    shots = take_pictures(video_file, uses, limit)
    size = sum(uses[time_s] * len(shot.uri) for time_s, shot in shots.items())
    assert size <= limit
    if len(shots) < len(TIMES):
        # Left out only where the smallest are too large, and not more than necessary.
        assert all(max(shot.width, shot.height) <= 64 for shot in shots.values())
        assert size > limit / 2 or limit < 2_000


def test_those_that_are_left_out_are_spread(video_file: VideoFile) -> None:
    shots = take_pictures(video_file, count_uses(TIMES), 12_000)
    places = [TIMES.index(time_s) for time_s in shots]
    assert 5 < len(places) < 50
    assert max(np.diff([-1, *places, 50])) <= 2 * 50 / len(places) + 1


def test_small_videos_are_not_blown_up(tmp_path: Path) -> None:
    with VideoFile(Recipe("small.mp4", count=3).make(tmp_path)) as small:
        [shot] = take_pictures(small, {0.0: 1}, 10**6).values()
    assert (shot.width, shot.height) == (64, 48)


def test_no_times_no_pictures(video_file: VideoFile) -> None:
    assert take_pictures(video_file, {}, 10**6) == {}


def test_count_uses() -> None:
    assert count_uses([1.0, 2.0], [], [2.0, 2.0]) == {1.0: 1, 2.0: 3}
