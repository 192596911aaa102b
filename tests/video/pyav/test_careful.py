"""Careful decoding by itself: it finds every frame, corrects what it assumed, and notes what is wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.video.videos import RECIPES, Recipe, overwrite_packets, straight
from videoreasoner.errors import VideoError
from videoreasoner.video.pyav.careful import CarefulDecoder
from videoreasoner.video.pyav.source import Source


def _opened(path: Path, threads: int = 1) -> CarefulDecoder:
    decoder = CarefulDecoder(Source(str(path), 1.0), threads)
    decoder.first_frame()
    return decoder


@pytest.mark.parametrize(
    "name", ["short gops, b-frames", "open gops", "no key frames after the first", "transport stream"]
)
@pytest.mark.parametrize("threads", [1, 2])
def test_frames_in_any_order_are_those_of_a_straight_decode(name: str, threads: int, tmp_path: Path) -> None:
    path = RECIPES[name].make(tmp_path)
    expected = straight(path)
    decoder = _opened(path, threads)
    for position in (49, 0, 25, 26, 24, 48, 7):
        picture = decoder.find(position)
        assert picture.stamp == decoder.index.stamps[position]
        assert np.array_equal(picture.frame.to_ndarray(format="rgb24"), expected[position])
    assert decoder.problems() == []
    decoder.close()


def test_key_frames_in_name_only_are_found_out(tmp_path: Path) -> None:
    decoder = _opened(RECIPES["no key frames after the first"].make(tmp_path), threads=2)
    assert len(decoder.index.keys) > 1
    decoder.find(40)
    assert len(decoder.index.keys) == 1
    decoder.close()


def test_a_damaged_frame_is_replaced_and_noted_with_its_time(tmp_path: Path) -> None:
    path = RECIPES["all key frames"].make(tmp_path)
    overwrite_packets(path, set(range(10, 20)).__contains__)
    decoder = _opened(path)
    for position in range(10, 20):
        assert decoder.find(position).stamp == decoder.index.stamps[9]
    [missing] = [problem for problem in decoder.problems() if problem.startswith("No frame")]
    assert missing == (
        "No frame at 0.40 s, 0.44 s, 0.48 s, 0.52 s, 0.56 s and 5 more could be decoded; "
        "the nearest one that can is shown."
    )
    decoder.close()


def test_a_video_without_any_frame_is_refused(tmp_path: Path) -> None:
    path = Recipe("video.mov", codec="mjpeg", count=5, pixel_format="yuvj420p").make(tmp_path)
    overwrite_packets(path, lambda number: True)
    with pytest.raises(VideoError, match="no frame can be decoded; get an undamaged copy"):
        CarefulDecoder(Source(str(path), 1.0)).first_frame()


def test_a_closed_decoder_says_so(tmp_path: Path) -> None:
    decoder = _opened(RECIPES["one frame"].make(tmp_path))
    decoder.close()
    with pytest.raises(ValueError, match="closed"):
        decoder.find(0)
