from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from videoreasoner.video.pyav import plan
from videoreasoner.video.pyav.index import FrameIndex
from videoreasoner.video.pyav.plan import plan_runs


def _index(count: int, keys: list[int], counted: bool = False) -> FrameIndex:
    """A video of frames one tick apart."""
    stamps = np.arange(count, dtype=np.int64)
    return FrameIndex(stamps, count, Fraction(1, 25), np.array([(key, key) for key in keys], np.int64), counted)


@st.composite
def requests(draw: st.DrawFn) -> tuple[list[int], FrameIndex]:
    count = draw(st.integers(1, 600))
    keys = sorted({0, *draw(st.lists(st.integers(0, count - 1), max_size=12))})
    wanted = draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=40))
    return (sorted(wanted) if draw(st.booleans()) else wanted), _index(count, keys)


@given(requests(), st.sampled_from([1, 4]))
def test_runs_hold_every_wanted_frame_in_order_and_begin_at_its_key_frame(
    request_: tuple[list[int], FrameIndex], threads: int
) -> None:
    wanted, index = request_
    runs = plan_runs(wanted, index, threads)
    assert [position for run in runs for position in run.positions] == wanted
    for run in runs:
        assert list(run.positions) == sorted(run.positions)
        assert run.key == index.key_before(run.positions[0])


@given(requests())
def test_a_run_never_passes_more_than_a_seek_is_worth(request_: tuple[list[int], FrameIndex]) -> None:
    wanted, index = request_
    for run in plan_runs(wanted, index):
        for last, position in zip(run.positions, run.positions[1:], strict=False):
            key = int(index.keys[index.key_before(position), 0])
            assert key - last <= plan.FRAMES_WORTH_A_SEEK


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ([10, 90], [[10, 90]]),
        ([10, 110], [[10], [110]]),
        ([10, 95, 110], [[10, 95, 110]]),
        ([10, 84, 100], [[10, 84, 100]]),
        ([10, 83, 100], [[10, 83], [100]]),
        ([110, 10], [[110], [10]]),
        ([10, 10, 10], [[10, 10, 10]]),
        ([99, 199, 299], [[99, 199, 299]]),
    ],
)
def test_close_frames_share_a_run_and_far_ones_do_not(wanted: list[int], expected: list[list[int]]) -> None:
    runs = plan_runs(wanted, _index(400, [0, 100, 200, 300]))
    assert [list(run.positions) for run in runs] == expected


def test_several_threads_share_a_long_stretch_at_its_key_frames() -> None:
    index = _index(400, [0, 100, 200, 300])
    wanted = list(range(0, 400, 4))
    assert len(plan_runs(wanted, index, threads=1)) == 1
    assert [run.key for run in plan_runs(wanted, index, threads=2)] == [0, 1, 2, 3]


def test_a_video_of_key_frames_alone_is_not_cut_into_frames() -> None:
    index = _index(400, list(range(400)))
    assert len(plan_runs(range(400), index, threads=8)) <= 400 // plan.FRAMES_WORTH_A_THREAD + 1


def test_without_trusted_key_frames_decoding_begins_at_the_beginning() -> None:
    [run] = plan_runs([5, 300], _index(400, [], counted=True))
    assert run.key == 0
