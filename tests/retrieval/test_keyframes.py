import ast
import inspect
import math
from itertools import chain, pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from videoreasoner.errors import SettingError
from videoreasoner.retrieval import keyframes
from videoreasoner.retrieval.keyframes import (
    SCORE_TOLERANCE,
    Keyframe,
    Moment,
    SegmentScores,
    distinct_elements,
    find_moments,
    retrieval_times,
    score_segments,
    segment_means,
    select_keyframes,
)

TIDY = settings(max_examples=40, deadline=None)


def find_keyframes(text_features, image_features, times_s, elements, **how):
    return select_keyframes(score_segments(text_features, image_features, times_s, **how), elements)


@st.composite
def videos(draw):
    """Features, times, elements, and how to search: what find_keyframes takes."""
    frames = draw(st.integers(1, 12))
    count = draw(st.integers(0, 12))
    width = draw(st.integers(1, 5))
    duration = draw(st.floats(0.1, 5000))
    fractions = draw(st.lists(st.floats(0, 1), min_size=frames, max_size=frames))
    seed = draw(st.integers(0, 2**32 - 1))
    generator = torch.Generator().manual_seed(seed)
    return {
        "text_features": torch.randn(count, width, generator=generator),
        "image_features": torch.randn(frames, width, generator=generator),
        "times_s": np.sort(np.array(fractions)) * duration,
        "elements": [f"element {i}" for i in range(count)],
        "segment_frames": draw(st.integers(1, 14)),
        "duration_s": duration,
    }


@TIDY
@given(videos())
def test_spans_lie_in_the_video_around_their_time(video):
    found = find_keyframes(**video)
    assert len(found) == len(video["elements"])
    assert {k.element for k in found} == set(video["elements"])
    for keyframe in found:
        assert 0 <= keyframe.start_s <= keyframe.time_s <= keyframe.end_s <= video["duration_s"]
        assert keyframe.time_s in video["times_s"]
        assert -1 <= keyframe.score <= 1
    scores = [keyframe.score for keyframe in found]
    assert scores == sorted(scores, reverse=True)


def cosine(one, other):
    return sum(a * b for a, b in zip(one, other, strict=True)) / (
        math.sqrt(sum(a * a for a in one)) * math.sqrt(sum(b * b for b in other))
    )


@TIDY
@given(videos())
def test_the_best_segment_is_found_as_by_hand(video):
    size = video["segment_frames"]
    rows = [[x / math.hypot(*row) for x in row] for row in video["image_features"].tolist()]
    groups = [list(range(i, min(i + size, len(rows)))) for i in range(0, len(rows), size)]
    means = [
        [sum(rows[frame][axis] for frame in group) / len(group) for axis in range(len(rows[0]))] for group in groups
    ]
    texts = video["text_features"].tolist()
    by_element = {keyframe.element: keyframe for keyframe in find_keyframes(**video)}
    for element in by_element.values():
        row = texts[video["elements"].index(element.element)]
        # Opposite frames may cancel out exactly, and then match nothing.
        scores = [cosine(row, mean) if math.hypot(*mean) > 1e-9 else 0.0 for mean in means]
        best = max(scores)
        chosen = next(i for i, score in enumerate(scores) if score >= best - SCORE_TOLERANCE)
        group = groups[chosen]
        assert element.score == pytest.approx(scores[chosen], abs=1e-5)
        assert element.time_s == video["times_s"][group[(len(group) - 1) // 2]]


@TIDY
@given(videos(), st.integers(0, 2**32 - 1))
def test_only_directions_count(video, seed):
    random = np.random.default_rng(seed)
    scaled = dict(video)
    for name in ("text_features", "image_features"):
        scales = random.uniform(0.01, 100, size=(len(video[name]), 1))
        scaled[name] = video[name].double() * torch.from_numpy(scales)
        video[name] = video[name].double()
    for one, other in zip(find_keyframes(**video), find_keyframes(**scaled), strict=True):
        assert (one.element, one.time_s, one.start_s, one.end_s) == (
            other.element,
            other.time_s,
            other.start_s,
            other.end_s,
        )
        assert one.score == pytest.approx(other.score, abs=1e-9)


@TIDY
@given(videos(), st.randoms(use_true_random=False))
def test_the_order_of_elements_does_not_matter(video, random):
    order = list(range(len(video["elements"])))
    random.shuffle(order)
    shuffled = dict(video)
    shuffled["elements"] = [video["elements"][i] for i in order]
    shuffled["text_features"] = video["text_features"][order]

    def by_name(keyframe):
        return keyframe.element

    assert sorted(find_keyframes(**video), key=by_name) == sorted(find_keyframes(**shuffled), key=by_name)


@TIDY
@given(videos())
def test_segments_cover_the_video_once(video):
    frames = len(video["image_features"])
    times = np.unique(video["times_s"])
    video["image_features"] = video["text_features"] = torch.eye(frames)[: len(times), : len(times)]
    video["times_s"] = times
    video["elements"] = [f"element {i}" for i in range(len(times))]
    video["segment_frames"] = 1
    found = sorted(find_keyframes(**video), key=lambda keyframe: keyframe.time_s)
    assert [keyframe.time_s for keyframe in found] == times.tolist()
    assert (found[0].start_s, found[-1].end_s) == (0, video["duration_s"])
    for one, after in pairwise(found):
        assert one.end_s == after.start_s == (one.time_s + after.time_s) / 2


def test_a_worked_example():
    found = find_keyframes(
        torch.tensor([[0.0, 2.0], [3.0, 0.0]]),
        torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [1.0, 1.0]]),
        np.array([1.0, 3.0, 5.0, 7.0, 9.0]),
        ["digit", "red circle"],
        segment_frames=2,
        duration_s=10.0,
    )
    assert found == [
        Keyframe(time_s=5.0, element="digit", score=1.0, start_s=4.0, end_s=8.0),
        Keyframe(time_s=1.0, element="red circle", score=1.0, start_s=0.0, end_s=4.0),
    ]


def test_ties_go_to_the_earliest():
    frame = torch.randn(1, 512, generator=torch.Generator().manual_seed(0))
    noise = 1e-7 * torch.arange(40)[:, None]
    found = find_keyframes(
        frame,
        frame * (1 + noise) + noise * 0.01,
        np.arange(40.0),
        ["cat"],
        duration_s=40.0,
    )
    assert found[0].time_s == 0.0


def test_frames_shown_twice_share_their_stretch():
    (found,) = find_keyframes(
        torch.eye(2)[1:],
        torch.eye(2)[[0, 1, 1]],
        np.array([2.0, 6.0, 6.0]),
        ["cat"],
        duration_s=10.0,
    )
    assert (found.start_s, found.time_s, found.end_s) == (4.0, 6.0, 10.0)


def test_no_elements_no_keyframes():
    image = torch.eye(3)
    times = np.arange(3.0)
    assert find_keyframes(torch.zeros(0, 3), image, times, [], duration_s=3.0) == []


@TIDY
@given(
    st.integers(0, 20).flatmap(lambda n: st.lists(st.integers(-3, 3), min_size=3 * n, max_size=3 * n)),
    st.integers(1, 25),
)
def test_segments_are_consecutive_and_their_means_unit(values, size):
    features = torch.tensor(values, dtype=torch.float32).reshape(-1, 3)
    means, first, last = segment_means(features, size)
    frames = [list(range(a, b + 1)) for a, b in zip(first, last, strict=True)]
    assert list(chain(*frames)) == list(range(len(features)))
    assert all(len(group) == size for group in frames[:-1])
    assert means.shape == (math.ceil(len(features) / size), 3)
    for mean, group in zip(means, frames, strict=True):
        rows = torch.nn.functional.normalize(features[group].double(), dim=-1)
        direction = rows.mean(dim=0)
        if direction.norm() > 1e-9:
            torch.testing.assert_close(mean, direction / direction.norm())


@TIDY
@given(st.floats(1e-3, 1e6), st.floats(1e-3, 100), st.integers(1, 2000))
def test_retrieval_times_are_the_centres_of_equal_slots(duration, rate, most):
    times = retrieval_times(duration, rate, most)
    assert times.dtype == np.float64
    assert 1 <= len(times) <= most
    assert len(times) <= max(1, duration * rate)
    assert times[0] >= 0
    assert times[-1] < duration
    slot = duration / len(times)
    np.testing.assert_allclose(times, slot / 2 + slot * np.arange(len(times)))


def test_retrieval_times_defaults():
    assert retrieval_times(3.0).tolist() == [0.5, 1.5, 2.5]
    assert retrieval_times(0.2).tolist() == [0.1]
    assert len(retrieval_times(10_000.0)) == 768
    assert len(retrieval_times(1e308, 1e308)) == 768


@pytest.mark.parametrize(
    "arguments",
    [(0.0,), (-1.0,), (math.nan,), (math.inf,), (5.0, 0.0), (5.0, math.nan), (5.0, 1.0, 0)],
)
def test_retrieval_times_refuse_nonsense(arguments):
    with pytest.raises(SettingError):
        retrieval_times(*arguments)


def test_distinct_elements():
    words = ["Red circle", " ", "red  CIRCLE", "digit", "", "Straße", "STRASSE", "last"]
    assert distinct_elements(words) == ["Red circle", "digit", "Straße", "last"]
    assert distinct_elements([]) == distinct_elements([" ", "\n"]) == []


def segments_of(*scores):
    """One text, and a segment of a second for each score."""
    times = np.arange(len(scores), dtype=np.float64)
    return SegmentScores(np.array([scores]), times + 0.5, times, times + 1)


def test_moments_are_runs_of_high_scores_best_first():
    segments = segments_of(0.0, 0.3, 0.4, 0.1, 0.35, 0.0, 0.2)
    first, second = Moment(2.5, 1.0, 3.0, 0.4), Moment(4.5, 4.0, 5.0, 0.35)
    assert find_moments(segments, 0, 9) == [first, second, Moment(6.5, 6.0, 7.0, 0.2)]
    assert find_moments(segments, 0, 1) == [first]


def test_a_text_that_matches_everywhere_alike_has_one_moment():
    assert find_moments(segments_of(0.2, 0.2 - 1e-8, 0.2), 0, 3) == [Moment(0.5, 0.0, 3.0, 0.2)]
    assert find_moments(segments_of(-0.5), 0, 3) == [Moment(0.5, 0.0, 1.0, -0.5)]


def test_segments_of_one_frame_are_one_moment():
    zero, one = np.zeros(3), np.ones(3)
    assert find_moments(SegmentScores(np.array([[0.4, 0.0, 0.3]]), zero, zero, one), 0, 3) == [Moment(0, 0, 1, 0.4)]


@TIDY
@given(videos())
def test_moments_lie_apart_in_the_video_and_the_first_holds_the_keyframe(video):
    elements = video.pop("elements")
    segments = score_segments(**video)
    by_element = {keyframe.element: keyframe for keyframe in select_keyframes(segments, elements)}
    for row, element in enumerate(elements):
        moments = find_moments(segments, row, len(segments.times_s))
        keyframe = by_element[element]
        assert moments[0].time_s == keyframe.time_s
        assert moments[0].score == pytest.approx(keyframe.score, abs=SCORE_TOLERANCE)
        for moment in moments:
            assert 0 <= moment.start_s <= moment.time_s <= moment.end_s <= video["duration_s"]
        in_order = sorted(moments, key=lambda moment: (moment.start_s, moment.end_s))
        assert all(one.end_s <= after.start_s for one, after in pairwise(in_order))


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"segment_frames": 0}, SettingError),
        ({"duration_s": 0.0}, SettingError),
        ({"duration_s": math.nan}, SettingError),
        ({"elements": ["cat", "dog"]}, ValueError),
        ({"text_features": torch.ones(1, 4)}, ValueError),
        ({"text_features": torch.ones(3)}, ValueError),
        ({"text_features": torch.full((1, 3), math.nan)}, ValueError),
        ({"image_features": torch.ones(2, 3)}, ValueError),
        ({"image_features": torch.ones(0, 3), "times_s": np.zeros(0)}, ValueError),
        ({"times_s": np.array([0.0, 2.0, 1.0])}, ValueError),
        ({"times_s": np.array([0.0, math.nan, 1.0])}, ValueError),
        ({"times_s": np.array([-1.0, 0.0, 1.0])}, ValueError),
        ({"times_s": np.array([0.0, 1.0, 9.0])}, ValueError),
    ],
)
def test_inputs_that_do_not_fit_are_refused(change, error):
    good = {
        "text_features": torch.ones(1, 3),
        "image_features": torch.eye(3),
        "times_s": np.arange(3.0),
        "elements": ["cat"],
        "duration_s": 3.0,
    }
    assert len(find_keyframes(**good)) == 1
    with pytest.raises(error):
        find_keyframes(**{**good, **change})


def test_keyframes_need_no_transformers():
    tree = ast.parse(inspect.getsource(keyframes))
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    modules |= {a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}
    assert "torch" in modules
    assert not any("transformers" in name or name.endswith("encoder") for name in modules)
