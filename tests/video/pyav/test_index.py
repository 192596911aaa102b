"""The frame table: what the packets of a file say, and what it makes of packets that say too little."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from tests.video.videos import RECIPES, Recipe
from videoreasoner.video.pyav.index import FrameIndex, scan


def _scan(path: Path, first_stamp: int | None = None) -> tuple[FrameIndex, list[str]]:
    with av.open(str(path)) as container:
        return scan(container, container.streams.video[0], first_stamp)


def _index(counted: bool = False) -> FrameIndex:
    """Five frames, three ticks of 1/75 s apart, the first at tick 30. The first and the fourth are key frames."""
    stamps = np.arange(30, 45, 3, dtype=np.int64)
    keys = np.array([(30, 27), (39, 36)], np.int64)
    return FrameIndex(stamps, 45, Fraction(1, 75), np.empty((0, 2), np.int64) if counted else keys, counted)


def test_seconds_count_from_the_first_shown_frame_and_are_rounded_once() -> None:
    index = _index()
    assert index.seconds(index.stamps).tolist() == [0.0, 0.04, 0.08, 0.12, 0.16]
    assert index.seconds(np.array([index.end])).tolist() == [0.2]


def test_key_frames_are_found_by_stamp() -> None:
    index = _index()
    assert [index.key_before(stamp) for stamp in (0, 30, 38, 39, 1000)] == [0, 0, 0, 1, 1]
    assert [index.position_of_key(key) for key in (0, 1)] == [0, 3]
    assert index.shown_keys().tolist() == [0, 3]


def test_a_table_that_is_counted_has_one_beginning_and_no_key_frames() -> None:
    index = _index().as_counted()
    assert index.counted
    assert index.key_before(1000) == 0
    assert index.shown_keys().tolist() == []
    assert index.stamps.tolist() == _index().stamps.tolist()


def test_a_table_with_one_key_frame_keeps_the_first() -> None:
    assert _index().with_one_key().keys.tolist() == [[30, 27]]


def test_the_table_of_an_ordinary_file(tmp_path: Path) -> None:
    index, problems = _scan(RECIPES["short gops, b-frames"].make(tmp_path))
    assert problems == []
    assert not index.counted
    assert index.seconds(index.stamps).tolist() == (np.arange(50) / 25).tolist()
    assert index.shown_keys().tolist() == list(range(0, 50, 6))
    # A key frame is decoded before it is shown, because B-frames change the order.
    assert (index.keys[:, 1] <= index.keys[:, 0]).all()


def test_frames_before_the_first_that_can_be_decoded_are_no_part_of_the_table(tmp_path: Path) -> None:
    path = RECIPES["no b-frames"].make(tmp_path)
    whole, _ = _scan(path)
    cut, _ = _scan(path, first_stamp=int(whole.stamps[8]))
    assert cut.stamps.tolist() == whole.stamps[8:].tolist()


@pytest.mark.parametrize("name", ["raw h264", "h264 avi, b-frames"])
def test_packets_that_do_not_say_when_frames_are_shown_are_counted(name: str, tmp_path: Path) -> None:
    index, problems = _scan(RECIPES[name].make(tmp_path))
    assert index.counted
    assert problems == []
    assert index.seconds(index.stamps) == pytest.approx(np.arange(50) / 25)


def test_joined_recordings_are_counted_and_follow_each_other(tmp_path: Path) -> None:
    path = Recipe("part.ts", count=20, options={"bf": "0", "g": "5"}).make(tmp_path)
    path.write_bytes(path.read_bytes() * 3)
    index, _ = _scan(path)
    assert index.counted
    assert index.seconds(index.stamps) == pytest.approx(np.arange(60) / 25)


def test_a_file_that_lacks_what_its_header_states_is_a_problem(tmp_path: Path) -> None:
    path = Recipe("cut.mp4", muxer_options={"movflags": "faststart"}).make(tmp_path)
    path.write_bytes(path.read_bytes()[: -path.stat().st_size // 3])
    index, problems = _scan(path)
    assert 0 < len(index.stamps) < 50
    assert any("of the 2.00 s that its header states" in problem for problem in problems)
