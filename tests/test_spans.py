import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from videoreasoner.spans import Span, best_iou, iou, merge

SECONDS = st.floats(-1e4, 1e4)
SPANS = st.tuples(SECONDS, SECONDS).map(lambda ends: Span(min(ends), max(ends)))
DURATIONS = st.floats(1e-3, 1e5)


@given(SPANS, SPANS)
def test_iou_is_symmetric_and_a_share(a, b):
    assert iou(a, b) == iou(b, a)
    assert 0.0 <= iou(a, b) <= 1.0
    if not a.overlaps(b):
        assert iou(a, b) == 0.0


@given(SPANS)
def test_iou_with_itself_is_one_unless_empty(span):
    assert iou(span, span) == (1.0 if span.length_s > 0 else 0.0)


def test_iou_of_known_spans():
    assert iou(Span(0, 2), Span(1, 3)) == pytest.approx(1 / 3)
    assert iou(Span(0, 1), Span(1, 2)) == 0.0
    assert iou(Span(0, 10), Span(2, 4)) == pytest.approx(0.2)


@given(st.none() | SPANS, st.lists(SPANS, max_size=4))
def test_best_iou_is_the_largest(predicted, references):
    best = best_iou(predicted, references)
    if predicted is None or not references:
        assert best == 0.0
    else:
        assert best == max(iou(predicted, reference) for reference in references)


@given(st.lists(SPANS, max_size=8), st.lists(SECONDS, max_size=8))
def test_merge_is_the_union_in_order(spans, times):
    merged = merge(spans)
    assert all(a.end_s < b.start_s for a, b in pairwise(merged))
    assert merge(merged) == merged
    assert merge(reversed(spans)) == merged
    ends = [end for span in spans for end in (span.start_s, span.end_s)]
    for time_s in times + ends:
        assert any(s.contains(time_s) for s in merged) == any(s.contains(time_s) for s in spans)


@given(SPANS, DURATIONS)
def test_a_limited_span_lies_in_the_video_and_in_the_span(span, duration_s):
    limited = span.limited_to(duration_s)
    if limited is None:
        assert span.end_s <= 0 or span.start_s >= duration_s or span.length_s == 0
    else:
        assert 0 <= limited.start_s < limited.end_s <= duration_s
        assert span.start_s <= limited.start_s
        assert limited.end_s <= span.end_s
        assert limited.limited_to(duration_s) == limited


@given(SPANS, DURATIONS)
def test_ratios_and_back(span, duration_s):
    start, end = span.as_ratios(duration_s)
    assert 0.0 <= start <= end <= 1.0
    limited = span.limited_to(duration_s)
    if limited is not None:
        again = Span.from_ratios(start, end, duration_s)
        assert again.start_s == pytest.approx(limited.start_s, abs=1e-9 * duration_s)
        assert again.end_s == pytest.approx(limited.end_s, abs=1e-9 * duration_s)


@given(SECONDS, st.floats(0, 100))
def test_around_holds_its_middle(time_s, width_s):
    span = Span.around(time_s, width_s)
    assert span.contains(time_s)
    assert span.length_s == pytest.approx(width_s, abs=1e-9)


@given(SPANS, SPANS)
def test_overlap_means_a_shared_instant(a, b):
    shared = max(a.start_s, b.start_s)
    assert a.overlaps(b) == b.overlaps(a) == (a.contains(shared) and b.contains(shared))


@pytest.mark.parametrize("ends", [(2, 1), (math.nan, 1), (0, math.nan), (-math.inf, 0), (0, math.inf)])
def test_ends_that_are_no_span_are_refused(ends):
    with pytest.raises(ValueError, match="span"):
        Span(*ends)
