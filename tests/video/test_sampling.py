import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from videoreasoner.errors import SettingError
from videoreasoner.spans import Span, merge
from videoreasoner.video.sampling import PAIR, SamplingSettings, focus_plan, on_key_frames, uniform_plan

DURATIONS = st.floats(1e-3, 1e5)
SETTINGS = st.builds(
    SamplingSettings,
    frame_budget=st.integers(2, 300),
    sparse_rate_fps=st.floats(1e-3, 60),
    dense_share=st.floats(0, 1),
    dense_rate_fps=st.floats(1e-3, 60),
)


@st.composite
def focus_requests(draw):
    """Duration, key spans, settings and keyframes; spans and keyframes lie anywhere, also outside."""
    duration_s = draw(DURATIONS)
    # Round shares make spans touch, coincide and end with the video.
    place = st.floats(-0.5, 1.5) | st.integers(-1, 9).map(lambda n: n / 8)
    width = st.floats(0, 1) | st.floats(0, 1e-5) | st.sampled_from([0.0, 0.125])
    spans = [
        Span(start * duration_s, start * duration_s + length * duration_s)
        for start, length in draw(st.lists(st.tuples(place, width), max_size=8))
    ]
    anywhere = st.lists(place.map(lambda share: share * duration_s), max_size=6)
    keyframes = draw(anywhere)
    if spans:
        keyframes += [(s.start_s + s.end_s) / 2 for s in draw(st.lists(st.sampled_from(spans), max_size=3))]
    return duration_s, spans, draw(SETTINGS), keyframes


def usable(spans, duration_s):
    limited = [span.limited_to(duration_s) for span in spans]
    merged = merge(span for span in limited if span is not None)
    return [span for span in merged if span.length_s >= 1e-6 * duration_s]


def touched(uniform, spans):
    """Which pairs of the grid share an instant with a span."""
    return np.array([any(s.start_s <= b and s.end_s >= a for s in spans) for a, b in uniform.pairs_s])


def same(a, b):
    return np.array_equal(a.pairs_s, b.pairs_s) and np.array_equal(a.dense, b.dense)


def check_form(plan, duration_s, config):
    times = plan.times_s
    assert times.dtype == np.float64
    assert plan.dense.shape == (len(plan),)
    assert plan.pairs_s.shape == (len(plan), PAIR)
    assert PAIR <= len(times) <= config.frame_budget
    assert (np.diff(times) > 0).all()
    assert times[0] >= 0
    assert times[-1] < duration_s


@given(DURATIONS, SETTINGS)
def test_uniform_times_are_even_and_within_the_limits(duration_s, config):
    plan = uniform_plan(duration_s, config)
    check_form(plan, duration_s, config)
    assert not plan.dense.any()
    assert len(plan.times_s) <= max(PAIR, round(duration_s * config.sparse_rate_fps))
    step = duration_s / len(plan.times_s)
    assert np.allclose(np.diff(plan.times_s), step, rtol=1e-6)
    assert plan.times_s[0] == pytest.approx(step / 2)
    if duration_s * config.sparse_rate_fps >= config.frame_budget:
        assert len(plan) == config.frame_budget // PAIR


@settings(max_examples=300, deadline=None)
@given(focus_requests())
def test_focus_keeps_to_video_and_budget(request):
    duration_s, spans, config, keyframes = request
    plan = focus_plan(duration_s, spans, config, keyframes)
    check_form(plan, duration_s, config)
    inside = usable(spans, duration_s)
    dense_times = plan.pairs_s[plan.dense].reshape(-1)
    assert all(any(span.contains(t) for span in inside) for t in dense_times)


@settings(max_examples=200, deadline=None)
@given(focus_requests())
def test_sparse_pairs_are_pairs_of_the_uniform_grid(request):
    duration_s, spans, config, keyframes = request
    uniform = {tuple(pair) for pair in uniform_plan(duration_s, config).pairs_s.tolist()}
    plan = focus_plan(duration_s, spans, config, keyframes)
    assert {tuple(pair) for pair in plan.pairs_s[~plan.dense].tolist()} <= uniform


@settings(max_examples=200, deadline=None)
@given(focus_requests())
def test_share_and_rate_of_dense_pairs(request):
    duration_s, spans, config, keyframes = request
    uniform = uniform_plan(duration_s, config)
    inside = usable(spans, duration_s)
    in_reach = int(touched(uniform, inside).sum())
    budget = config.frame_budget // PAIR
    left_over = budget - (len(uniform) - in_reach)
    dense = int(focus_plan(duration_s, spans, config, keyframes).dense.sum())
    if config.dense_share == 0:
        assert dense == 0
        return
    assert dense <= max(1, int(budget * config.dense_share), left_over)
    seconds = sum(span.length_s for span in inside)
    by_rate = math.ceil(seconds * config.dense_rate_fps / PAIR)
    assert dense <= max(by_rate, len(inside), in_reach)


@settings(max_examples=200, deadline=None)
@given(focus_requests())
def test_focus_never_looks_at_less_than_uniform(request):
    duration_s, spans, config, keyframes = request
    plan = focus_plan(duration_s, spans, config, keyframes)
    uniform = uniform_plan(duration_s, config)
    assert len(plan) >= len(uniform)
    whole = focus_plan(duration_s, [Span(-1.0, duration_s + 1.0)], config, keyframes)
    assert len(whole) >= len(uniform)
    assert whole.dense.all() or config.dense_share == 0


@settings(max_examples=200, deadline=None)
@given(focus_requests())
def test_a_key_span_without_dense_pairs_keeps_its_sparse_ones(request):
    duration_s, spans, config, keyframes = request
    plan = focus_plan(duration_s, spans, config, keyframes)
    uniform = uniform_plan(duration_s, config)
    served = [s for s in usable(spans, duration_s) if any(map(s.contains, plan.times_s[np.repeat(plan.dense, 2)]))]
    free = uniform.pairs_s[~touched(uniform, served)] if served else uniform.pairs_s
    room = config.frame_budget // PAIR - int(plan.dense.sum())
    assert int((~plan.dense).sum()) == min(len(free), room)


@given(DURATIONS, SETTINGS, st.lists(st.floats(0, 1e5), max_size=4))
def test_without_a_usable_span_the_plan_is_uniform(duration_s, config, keyframes):
    uniform = uniform_plan(duration_s, config)
    unusable = [
        Span(-5.0, 0.0),
        Span(duration_s, duration_s + 3.0),
        Span(duration_s / 2, duration_s / 2),
        Span(duration_s / 3, duration_s / 3 + duration_s * 1e-9),
    ]
    assert same(focus_plan(duration_s, [], config, keyframes), uniform)
    assert same(focus_plan(duration_s, unusable, config, keyframes), uniform)


@settings(max_examples=300, deadline=None)
@given(focus_requests())
def test_keyframes_are_looked_at_where_order_allows(request):
    duration_s, spans, config, keyframes = request
    plan = focus_plan(duration_s, spans, config, keyframes)
    dense_times = plan.pairs_s[plan.dense].reshape(-1)
    for span in usable(spans, duration_s):
        times = dense_times[(dense_times >= span.start_s) & (dense_times <= span.end_s)]
        if len(times) == 0:
            continue
        for keyframe in keyframes:
            if span.contains(keyframe) and keyframe < duration_s and keyframe not in times:
                at = int(np.searchsorted(times, keyframe))
                neighbours = times[max(at - 1, 0) : at + 1].tolist()
                assert set(neighbours) <= set(keyframes)


@settings(max_examples=100, deadline=None)
@given(focus_requests(), st.randoms(use_true_random=False))
def test_the_order_of_spans_and_keyframes_does_not_matter(request, random):
    duration_s, spans, config, keyframes = request
    plan = focus_plan(duration_s, spans, config, keyframes)
    random.shuffle(spans)
    random.shuffle(keyframes)
    assert same(plan, focus_plan(duration_s, spans * 2, config, keyframes * 2))


def test_a_known_plan():
    config = SamplingSettings(frame_budget=32, sparse_rate_fps=2.0)
    plan = focus_plan(16.0, [Span(4.0, 6.0)], config, [5.1])
    dense = plan.pairs_s[plan.dense].reshape(-1)
    # Two seconds at six frames a second, and the grid without the pairs that the span touches.
    step = 2 / 12
    expected = 4.0 + (np.arange(12) + 0.5) * step
    expected[np.abs(expected - 5.1).argmin()] = 5.1
    assert np.array_equal(dense, expected)
    assert len(plan.pairs_s[~plan.dense]) == 10
    assert 5.1 in plan.times_s


def test_two_keyframes_next_to_one_time_are_both_kept():
    config = SamplingSettings(frame_budget=8, sparse_rate_fps=1.0, dense_rate_fps=1.0)
    plan = focus_plan(8.0, [Span(0.0, 4.0)], config, [1.45, 1.55])
    assert {1.45, 1.55} <= set(plan.times_s.tolist())


def test_a_keyframe_on_a_dense_time_stays_when_another_is_near():
    config = SamplingSettings(frame_budget=8, sparse_rate_fps=1.0, dense_rate_fps=1.0)
    for near in (1.4, 1.6):
        plan = focus_plan(8.0, [Span(0.0, 4.0)], config, [1.5, near])
        assert {1.5, near} <= set(plan.times_s.tolist())


def test_a_span_that_gets_no_dense_pair_leaves_no_hole():
    # Two dense pairs go to the two longer spans; the grid's second pair stays for the third one.
    config = SamplingSettings(frame_budget=8, sparse_rate_fps=0.2, dense_share=0.5)
    spans = [Span(3.0, 4.0), Span(5.0, 6.0), Span(15.0, 15.1)]
    plan = focus_plan(40.0, spans, config)
    assert plan.dense.tolist() == [True, True, False, False]
    assert plan.pairs_s[2].tolist() == [12.5, 17.5]


def test_no_time_at_the_end_of_the_video():
    plan = focus_plan(8.0, [Span(4.0, 9.0)], SamplingSettings(), [8.0])
    assert plan.times_s[-1] < 8.0


@pytest.mark.parametrize("duration_s", [0.0, -1.0, math.nan, math.inf])
def test_a_video_without_a_duration_is_refused(duration_s):
    with pytest.raises(SettingError, match="duration"):
        uniform_plan(duration_s, SamplingSettings())
    with pytest.raises(SettingError, match="duration"):
        focus_plan(duration_s, [Span(0, 1)], SamplingSettings())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"frame_budget": 1}, "frame_budget"),
        ({"sparse_rate_fps": 0.0}, "sparse_rate_fps"),
        ({"dense_rate_fps": math.inf}, "dense_rate_fps"),
        ({"dense_rate_fps": math.nan}, "dense_rate_fps"),
        ({"dense_share": -0.1}, "dense_share"),
        ({"dense_share": math.nan}, "dense_share"),
    ],
)
def test_settings_that_make_no_sense_are_refused(values, message):
    with pytest.raises(SettingError, match=message):
        SamplingSettings(**values)


def test_absurd_rates_are_only_limited_by_the_budget():
    config = SamplingSettings(64, sparse_rate_fps=1e308, dense_rate_fps=1e308)
    assert len(uniform_plan(1e5, config)) == 32
    assert len(focus_plan(1e5, [Span(0, 1e5)], config)) == 32


# Sparse frames on key frames


@st.composite
def keyed_videos(draw):
    """Duration and key-frame times: regular groups of pictures, or anything."""
    duration_s = draw(DURATIONS)
    if draw(st.booleans()):
        return duration_s, np.arange(0.0, duration_s, duration_s / draw(st.integers(1, 200)))
    shares = draw(st.lists(st.floats(0, 1, exclude_max=True), max_size=30, unique=True))
    return duration_s, np.array(sorted(shares)) * duration_s


@given(keyed_videos(), st.integers(1, 200))
def test_times_move_onto_key_frames_within_their_slots(video, count):
    duration_s, keys_s = video
    slot_s = duration_s / count
    centres_s = (np.arange(count) + 0.5) * slot_s
    moved_s = on_key_frames(centres_s, duration_s, keys_s)
    assert (np.diff(moved_s) > 0).all()
    assert (np.abs(moved_s - centres_s) <= slot_s / 2 * (1 + 1e-6)).all()
    for centre_s, time_s in zip(centres_s, moved_s, strict=True):
        off_s = np.abs(keys_s - centre_s).min() if len(keys_s) else np.inf
        if time_s in keys_s:
            assert abs(time_s - centre_s) == off_s or off_s > slot_s / 2 * (1 - 1e-6)
        else:
            assert time_s == centre_s
            assert off_s > slot_s / 2 * (1 - 1e-6)


@given(keyed_videos(), focus_requests())
def test_plans_on_key_frames_have_the_form_of_plans(video, request_):
    duration_s, keys_s = video
    _, spans, config, keyframes = request_
    spans = [Span(s.start_s % duration_s, s.start_s % duration_s + s.length_s) for s in spans]
    plain = uniform_plan(duration_s, config)
    uniform = uniform_plan(duration_s, config, keys_s)
    check_form(uniform, duration_s, config)
    assert len(uniform) == len(plain)
    focused = focus_plan(duration_s, spans, config, keyframes, keys_s)
    check_form(focused, duration_s, config)
    of_grid = {tuple(pair) for pair in uniform.pairs_s.tolist()}
    assert all(tuple(pair) in of_grid for pair in focused.pairs_s[~focused.dense].tolist())


def test_a_video_with_a_key_frame_in_every_slot_is_looked_at_on_key_frames_alone():
    keys_s = np.arange(0, 1200, 10.0)
    plan = uniform_plan(1200.0, SamplingSettings(frame_budget=64), keys_s)
    assert set(plan.times_s) <= set(keys_s)
    assert len(set(plan.times_s)) == 64
