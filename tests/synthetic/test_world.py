"""Worlds: their truth holds, and what is rendered agrees with it."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from videoreasoner.errors import SettingError
from videoreasoner.synthetic.world import (
    COLORS,
    DIGITS,
    SHAPES,
    Event,
    World,
    WorldSettings,
    is_held_out,
    random_world,
    render,
)

_SIZE = 48


@st.composite
def world_settings(draw: st.DrawFn) -> WorldSettings:
    """Settings all over the range that is accepted."""
    most = draw(st.integers(1, 4))
    gap = draw(st.sampled_from([0.0, 0.03, 0.08]))
    shortest = draw(st.floats(0.02, (0.95 - (most - 1) * gap) / most - 1e-6))
    return WorldSettings(
        events=(draw(st.integers(1, most)), most),
        event_share=(shortest, draw(st.floats(shortest, 1.0))),
        gap_share=gap,
        detail=draw(st.sampled_from(["color", "digit"])),
        detail_share=draw(st.floats(shortest / 100, shortest / 2)),
        distractors=draw(st.integers(0, 3)),
    )


def drawn(seed: int, chosen: WorldSettings, subset: Any = "train") -> World:
    return random_world(np.random.default_rng(seed), chosen, subset)


def shows(image: NDArray[np.uint8], color: str) -> bool:
    return bool((image == COLORS[color]).all(-1).any())


def plain_time(event: Event) -> float:
    """The middle of an event, or a quarter of it when the detail shows in the middle."""
    middle = (event.start + event.end) / 2
    if event.detail_start <= middle < event.detail_end:
        before, after = event.detail_start - event.start, event.end - event.detail_end
        return event.start + before / 2 if before > after else event.end - after / 2
    return middle


seeds = st.integers(0, 2**32)
subsets = st.sampled_from(["train", "held_out"])


@given(seed=seeds, chosen=world_settings(), subset=subsets)
@settings(max_examples=60, deadline=None)
def test_events_are_disjoint_and_hold_their_details(seed: int, chosen: WorldSettings, subset: Any) -> None:
    events = drawn(seed, chosen, subset).events
    slack = 1e-9
    assert chosen.events[0] <= len(events) <= chosen.events[1]
    for event in events:
        assert 0 <= event.start < event.detail_start
        assert event.detail_end < event.end <= 1
        assert event.detail_end - event.detail_start == pytest.approx(chosen.detail_share)
        shortest, longest = chosen.event_share
        assert shortest - slack <= event.end - event.start <= longest + slack
    for one, other in pairwise(events):
        assert other.start - one.end >= chosen.gap_share - slack


@given(seed=seeds, chosen=world_settings(), subset=subsets)
@settings(max_examples=60, deadline=None)
def test_objects_differ_and_belong_to_the_subset(seed: int, chosen: WorldSettings, subset: Any) -> None:
    world = drawn(seed, chosen, subset)
    assert len({event.color for event in world.events}) == len(world.events)
    assert len({event.shape for event in world.events}) == len(world.events)
    for event in world.events:
        assert is_held_out(event.color, event.shape) == (subset == "held_out")
        assert event.detail != event.color
        assert event.detail in (COLORS if chosen.detail == "color" else DIGITS)


@pytest.mark.parametrize("subset", ["train", "held_out"])
def test_every_detail_is_as_likely_with_every_pair_of_a_subset(subset: Any) -> None:
    rng = np.random.default_rng(0)
    for kind in ("color", "digit"):
        chosen = WorldSettings(detail=kind)
        found = Counter(
            (event.color, event.shape, event.detail)
            for _ in range(4000)
            for event in random_world(rng, chosen, subset).events
        )
        pairs = {(color, shape) for color, shape, _ in found}
        assert {color for color, _ in pairs} == set(COLORS)
        assert {shape for _, shape in pairs} == set(SHAPES)
        for color, shape in pairs:
            counts = [found[color, shape, d] for d in (COLORS if kind == "color" else DIGITS) if d != color]
            expected = sum(counts) / len(counts)
            # Within five standard deviations of a count.
            assert all(abs(count - expected) < 5 * expected**0.5 for count in counts), (color, shape, counts)


def test_both_subsets_have_videos_with_as_many_events_as_there_are_shapes() -> None:
    rng = np.random.default_rng(0)
    chosen = WorldSettings(events=(4, 4), event_share=(0.05, 0.2))
    for subset in ("train", "held_out"):
        found = {event.shape for event in random_world(rng, chosen, subset).events}  # type: ignore[arg-type]
        assert found == set(SHAPES)


@given(seed=seeds, chosen=world_settings(), subset=subsets)
@settings(max_examples=20, deadline=None)
def test_the_same_seed_gives_the_same_world(seed: int, chosen: WorldSettings, subset: Any) -> None:
    assert drawn(seed, chosen, subset) == drawn(seed, chosen, subset)
    assert drawn(seed, chosen, subset) != drawn(seed + 1, chosen, subset)


@given(seed=seeds, chosen=world_settings())
@settings(max_examples=40, deadline=None)
def test_colors_show_during_their_events_and_at_no_other_time(seed: int, chosen: WorldSettings) -> None:
    world = drawn(seed, chosen)
    middles = np.array([plain_time(event) for event in world.events])
    for event, image in zip(world.events, render(world, middles, _SIZE), strict=True):
        assert shows(image, event.color)
        others = [c for c in COLORS if c != event.color]
        assert not any(shows(image, other) for other in others)

    times = np.concatenate([np.linspace(0, 1, 40), [event.end for event in world.events]])
    inside = np.any([(e.start <= times) & (times < e.end) for e in world.events], axis=0)
    for image in render(world, times[~inside], _SIZE):
        assert not any(shows(image, color) for color in COLORS)


@given(seed=seeds, chosen=world_settings())
@settings(max_examples=40, deadline=None)
def test_details_show_in_their_window_and_at_no_other_time_of_the_event(seed: int, chosen: WorldSettings) -> None:
    world = drawn(seed, chosen)
    for event in world.events:
        times = np.linspace(event.start, np.nextafter(event.end, 0), 15)
        edges = [event.detail_start, np.nextafter(event.detail_end, 0), event.detail_end]
        times = np.sort(np.append(times, edges))
        in_window = (times >= event.detail_start) & (times < event.detail_end)
        images = render(world, times, _SIZE)
        if chosen.detail == "color":
            assert [shows(image, event.detail) for image in images] == in_window.tolist()
            assert [shows(image, event.color) for image in images] == (~in_window).tolist()
        else:
            pure_white = (images == 255).all(-1).any((1, 2))
            assert pure_white.tolist() == in_window.tolist()


def test_digits_look_different_from_each_other() -> None:
    images = set()
    for digit in DIGITS:
        event = Event(0.0, 1.0, "red", "circle", ((0.5, 0.5), (0.5, 0.5)), 0.3, digit, 0.4, 0.6)
        world = World((event,), (10, 10, 10), (), "digit")
        images.add(render(world, np.array([0.5]), _SIZE).tobytes())
    assert len(images) == len(DIGITS)


@given(seed=seeds, chosen=world_settings(), cut=st.integers(1, 19))
@settings(max_examples=15, deadline=None)
def test_a_frame_does_not_depend_on_those_rendered_with_it(seed: int, chosen: WorldSettings, cut: int) -> None:
    world, times = drawn(seed, chosen), np.linspace(0, 1, 20)
    parts = [render(world, part, _SIZE) for part in (times[:cut], times[cut:])]
    whole = render(world, times, _SIZE)
    assert whole.shape == (20, _SIZE, _SIZE, 3)
    assert whole.dtype == np.uint8
    assert (np.concatenate(parts) == whole).all()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"events": (0, 2)}, "events must be"),
        ({"events": (3, 2)}, "events must be"),
        ({"events": (1, 5)}, "events must be"),
        ({"event_share": (0.0, 0.2)}, "event_share must be"),
        ({"event_share": (0.3, 0.2)}, "event_share must be"),
        ({"gap_share": 1.0}, "gap_share must lie"),
        ({"events": (1, 4), "event_share": (0.3, 0.3)}, "do not fit"),
        ({"detail_share": 0.0}, "detail_share must lie"),
        ({"detail_share": 0.07}, "detail_share must lie"),
        ({"distractors": -1}, "distractors must be"),
    ],
)
def test_settings_out_of_range_are_named(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingError, match=words):
        WorldSettings(**changes)
