import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.models.tiny_models import random_qwen2_5_vl, random_qwen2_vl
from videoreasoner.models.positions import ClipTokens, temporal_indices, trunk_positions

MERGE = 2
TOKENS_PER_SECOND = 2.0


@functools.cache
def reference(family):
    """The class that computes transformers' positions; weights play no part in them."""
    with torch.device("meta"):
        return {"qwen2_vl": random_qwen2_vl, "qwen2_5_vl": random_qwen2_5_vl}[family]().model


def transformers_positions(family, parts, seconds_per_pair=()):
    types = torch.tensor([[2 if isinstance(part, ClipTokens) else 0 for part in parts for _ in range(len(part))]])
    clips = [part for part in parts if isinstance(part, ClipTokens)]
    grids = [[len(c.temporal), MERGE * c.height, MERGE * c.width] for c in clips]
    seconds = {"second_per_grid_ts": torch.tensor(seconds_per_pair)} if seconds_per_pair else {}
    positions, delta = reference(family).get_rope_index(
        torch.zeros_like(types),
        mm_token_type_ids=types,
        video_grid_thw=torch.tensor(grids) if clips else None,
        **seconds,
    )
    return positions[:, 0], int(delta) + types.shape[1]


TEXTS = st.integers(1, 6).map(lambda count: (7,) * count)


@st.composite
def trunks(draw, clips):
    """Text, clip, text, ...: transformers cannot tell two clips without text between them apart."""
    parts = [draw(TEXTS)]
    for _ in range(draw(st.integers(0, 3))):
        parts += [draw(clips), draw(TEXTS)]
    return parts


@st.composite
def short_clips(draw):
    height, width = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    pairs = draw(st.integers(1, max(height, width)))
    return ClipTokens(height, width, temporal_indices([0.0] * pairs, None))


@st.composite
def long_clips(draw):
    height, width = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    pairs = max(height, width) + draw(st.integers(1, 6))
    return ClipTokens(height, width, temporal_indices([0.0] * pairs, None))


@settings(max_examples=60, deadline=None)
@given(trunks(short_clips()))
def test_qwen2_vl_agrees_where_no_clip_is_longer_than_its_side(parts):
    positions, following = trunk_positions(parts)
    expected, expected_following = transformers_positions("qwen2_vl", parts)
    assert torch.equal(positions, expected)
    assert following == expected_following


@settings(max_examples=60, deadline=None)
@given(long_clips(), TEXTS, TEXTS)
def test_a_longer_clip_pushes_the_text_behind_its_range(clip, before, after):
    parts = [before, clip, after]
    positions, following = trunk_positions(parts)
    expected, _ = transformers_positions("qwen2_vl", parts)
    head = len(before) + len(clip)
    assert torch.equal(positions[:, :head], expected[:, :head])
    # There the text starts inside the clip's range, here one past its last index.
    last = int(positions[0, :head].max())
    assert int(expected[0, head]) <= last
    assert int(positions[0, head]) == last + 1
    shift = len(clip.temporal) - max(clip.height, clip.width)
    assert torch.equal(positions[:, head:], expected[:, head:] + shift)
    assert following == last + 1 + len(after)


@st.composite
def evenly_timed(draw, longest):
    """A trunk with clips sampled evenly, and the seconds between the pairs of each."""
    parts, seconds = [draw(TEXTS)], []
    for _ in range(draw(st.integers(1, 3))):
        height, width = draw(st.integers(1, 8)), draw(st.integers(1, 8))
        step = draw(st.integers(1, 12)) / 8
        most = int((max(height, width) - 1) / (step * TOKENS_PER_SECOND)) + 1
        pairs = draw(st.integers(1, most if longest is None else longest))
        start = draw(st.floats(0, 100))
        temporal = temporal_indices([start + i * step for i in range(pairs)], TOKENS_PER_SECOND)
        parts += [ClipTokens(height, width, temporal), draw(TEXTS)]
        seconds.append(step)
    return parts, seconds


@settings(max_examples=60, deadline=None)
@given(evenly_timed(None))
def test_qwen2_5_vl_agrees_where_no_clip_is_longer_than_its_side(trunk):
    parts, seconds = trunk
    positions, following = trunk_positions(parts)
    expected, expected_following = transformers_positions("qwen2_5_vl", parts, seconds)
    assert torch.equal(positions, expected)
    assert following == expected_following


@settings(max_examples=60, deadline=None)
@given(evenly_timed(12))
def test_qwen2_5_vl_agrees_inside_every_clip(trunk):
    parts, seconds = trunk
    positions, _ = trunk_positions(parts)
    expected, _ = transformers_positions("qwen2_5_vl", parts, seconds)
    at = 0
    for part in parts:
        own = slice(at, at + len(part))
        at = own.stop
        assert torch.equal(positions[:, own] - positions[:, own].min(), expected[:, own] - expected[:, own].min())


def test_uneven_times_are_stated_truly():
    times = [3.0, 4.0, 4.25, 4.5, 10.0]
    assert temporal_indices(times, 2.0) == (0, 2, 2, 3, 14)
    assert temporal_indices(times, 4.0) == (0, 4, 5, 6, 28)
    assert temporal_indices(times, None) == (0, 1, 2, 3, 4)


@given(
    st.lists(st.floats(0, 1e4), min_size=1, max_size=30).map(sorted),
    st.sampled_from([1.0, 2.0, 4.0, 25.0]),
)
def test_temporal_indices_never_decrease_and_are_true_to_one_index(times, tokens_per_second):
    indices = temporal_indices(times, tokens_per_second)
    assert indices[0] == 0
    assert list(indices) == sorted(indices)
    for index, time_s in zip(indices, times, strict=True):
        exact = (time_s - times[0]) * tokens_per_second
        assert exact - 1 < index <= exact + 1e-5


@given(st.integers(0, 500), st.floats(0, 1e4), st.sampled_from([0.1, 0.2, 0.5, 1.0]))
def test_whole_indices_do_not_fall_below_themselves(count, start_s, step_s):
    # 0.1 s has no exact binary form, nor has its sum with the start.
    times = [start_s + i * step_s for i in range(count + 1)]
    per_second = 1 / step_s
    assert temporal_indices(times, per_second) == tuple(range(count + 1))


def test_several_clips_follow_each_other():
    parts = [(1, 2), ClipTokens(1, 2, (0, 5)), ClipTokens(2, 1, (0,)), (3,)]
    positions, following = trunk_positions(parts)
    assert positions.tolist() == [
        [0, 1, 2, 2, 7, 7, 8, 8, 10],
        [0, 1, 2, 2, 2, 2, 8, 9, 10],
        [0, 1, 2, 3, 2, 3, 8, 8, 10],
    ]
    assert following == 11


@given(trunks(st.one_of(short_clips(), long_clips())))
def test_positions_of_one_part_never_reach_the_next(parts):
    positions, following = trunk_positions(parts)
    at, start = 0, 0
    for part in parts:
        own = positions[:, at : at + len(part)]
        assert int(own.min()) == start
        start = int(own.max()) + 1
        at += len(part)
    assert following == start


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl"])
def test_plain_text_counts_up(family):
    positions, following = trunk_positions([(5,) * 9])
    expected, expected_following = transformers_positions(family, [(5,) * 9])
    assert torch.equal(positions, expected)
    assert following == expected_following == 9
