"""Sampling: from (duration, frame budget, key spans) to the times of the frames that the model sees. Pure.

Qwen-VL's vision tower merges two neighbouring frames into one temporal patch, so times are sampled in *pairs*: two
times with no other sampled time between them. The sparse plan is a uniform grid. The focused plan keeps pairs of that
grid outside the key spans, whose features are then not computed again, and adds dense pairs inside the key spans
(paper, section "Multimodal Inference Pipeline").
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from videoreasoner.errors import SettingError
from videoreasoner.spans import Span, merge

PAIR = 2


@dataclass(frozen=True, eq=False)
class FramePlan:
    """The times of the frames that one pass of the model sees.

    Attributes:
        pairs_s: float64[P, 2], seconds; flattened, they increase strictly and lie in [0, duration).
        dense: bool[P], True for pairs inside key spans.
    """

    pairs_s: NDArray[np.float64]
    dense: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.pairs_s)

    @property
    def times_s(self) -> NDArray[np.float64]:
        """float64[2 P]: all times in order."""
        return self.pairs_s.reshape(-1)


@dataclass(frozen=True)
class SamplingSettings:
    """How the frame budget is spent.

    Attributes:
        frame_budget: most frames in one pass.
        sparse_rate_fps: most frames a second of the uniform grid, rounded to the nearest whole frame. A video gets at
            least one pair.
        dense_share: share of the budget that may be spent inside key spans; at least one pair, unless it is 0.
        dense_rate_fps: most frames a second inside key spans, rounded up to a whole pair. A key span gets at least one
            pair while the share lasts, and all key spans together get at least what the uniform grid has there.

    Raises:
        SettingError: a value is out of range.
    """

    frame_budget: int = 64
    sparse_rate_fps: float = 2.0
    dense_share: float = 0.5
    dense_rate_fps: float = 6.0

    def __post_init__(self) -> None:
        if self.frame_budget < PAIR:
            raise SettingError(f"frame_budget must be at least {PAIR}, not {self.frame_budget}")
        for name in ("sparse_rate_fps", "dense_rate_fps"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise SettingError(f"{name} must be a positive number, not {value}")
        if not 0.0 <= self.dense_share <= 1.0:
            raise SettingError(f"dense_share must lie in [0, 1], not {self.dense_share}")


def _grid(start_s: float, end_s: float, pairs: int) -> NDArray[np.float64]:
    """float64[pairs, 2]: the centres of 2 * pairs equal slots of [start_s, end_s]."""
    frames = PAIR * pairs
    centres = start_s + (np.arange(frames, dtype=np.float64) + 0.5) * ((end_s - start_s) / frames)
    return centres.reshape(pairs, PAIR)


def _check_duration(duration_s: float) -> None:
    if not (math.isfinite(duration_s) and duration_s > 0):
        raise SettingError(f"a video needs a positive duration, not {duration_s} s")


def uniform_plan(
    duration_s: float, settings: SamplingSettings, key_times_s: Sequence[float] | NDArray[np.float64] = ()
) -> FramePlan:
    """The sparse pass: the whole video at one rate, at most `sparse_rate_fps`, within the budget.

    Args:
        duration_s: length of the video in seconds.
        settings: how the budget is spent.
        key_times_s: when key frames are shown, in seconds: see `on_key_frames`. Without them, the grid is even.

    Raises:
        SettingError: the duration is not a positive number.
    """
    _check_duration(duration_s)
    # The minimum is taken before rounding, because an absurd rate makes the product infinite.
    wanted = round(min(settings.frame_budget, duration_s * settings.sparse_rate_fps))
    pairs = max(1, wanted // PAIR)
    times_s = on_key_frames(_grid(0.0, duration_s, pairs).reshape(-1), duration_s, key_times_s)
    return FramePlan(times_s.reshape(pairs, PAIR), np.zeros(pairs, bool))


def on_key_frames(
    centres_s: NDArray[np.float64], duration_s: float, key_times_s: Sequence[float] | NDArray[np.float64]
) -> NDArray[np.float64]:
    """Move times onto key frames, whose decoding costs a fraction of that of other frames.

    Each time moves onto the nearest key frame in its own slot, by at most half the distance to its neighbours. A time
    without a key frame in its slot stays. The times stay distinct and in order, and cover the video as evenly.

    Args:
        centres_s: float64[T], seconds: the centres of T equal slots of the video.
        duration_s: length of the video in seconds.
        key_times_s: when key frames are shown, in seconds, in any order.

    Returns:
        float64[T], seconds.
    """
    moved, distance = centres_s.copy(), np.full(len(centres_s), np.inf)
    for key_s in key_times_s:
        slot = int(key_s / duration_s * len(centres_s))
        if 0 <= slot < len(centres_s) and abs(key_s - centres_s[slot]) < distance[slot]:
            moved[slot], distance[slot] = key_s, abs(key_s - centres_s[slot])
    return moved


def focus_plan(
    duration_s: float,
    key_spans: Sequence[Span],
    settings: SamplingSettings,
    keyframe_times_s: Sequence[float] = (),
    key_times_s: Sequence[float] | NDArray[np.float64] = (),
) -> FramePlan:
    """The answer pass: dense pairs inside the merged key spans, pairs of the uniform grid elsewhere.

    Dense frames take at most `dense_share` of the budget and at most `dense_rate_fps`. If the key spans leave fewer
    sparse pairs than the rest of the budget could hold, dense pairs may take that rest. So a key span that covers the
    video gets at least as many frames as a plain uniform pass.

    If there are more key spans than dense pairs, the longest get the dense pairs, and the others keep their pairs of
    the uniform grid. The dense time nearest to each keyframe is moved onto it, so that the model sees what the
    text-image encoder found. Without a usable key span, the plan is the uniform one.

    Args:
        duration_s: length of the video in seconds.
        key_spans: where to look densely; they are limited to the video.
        settings: how the budget is spent.
        keyframe_times_s: the frames that the text-image encoder found, in seconds.
        key_times_s: as for `uniform_plan`. They move sparse pairs only.

    Raises:
        SettingError: the duration is not a positive number.
    """
    uniform = uniform_plan(duration_s, settings, key_times_s)
    limited = [span.limited_to(duration_s) for span in key_spans]
    # A span shorter than this has no room for two distinct times.
    shortest_s = duration_s * 1e-6
    spans = [s for s in merge(c for c in limited if c is not None) if s.length_s >= shortest_s]
    if not spans:
        return uniform

    budget_pairs = settings.frame_budget // PAIR
    available = len(_outside(uniform, spans))
    dense_pairs = _dense_pairs(spans, available, budget_pairs, len(uniform), settings)
    if dense_pairs == 0:
        return uniform
    counts = _allocate(spans, dense_pairs)
    served = [(span, count) for span, count in zip(spans, counts, strict=True) if count > 0]
    outside = _outside(uniform, [span for span, _ in served])
    sparse = uniform.pairs_s[_spread(outside, budget_pairs - dense_pairs)]
    # At the very end of the video, no frame is on screen.
    keyframes_s = [time_s for time_s in keyframe_times_s if time_s < duration_s]
    dense = np.concatenate(
        [_anchored(_grid(span.start_s, span.end_s, count), keyframes_s, span) for span, count in served]
    )
    pairs = np.concatenate([sparse, dense])
    is_dense = np.concatenate([np.zeros(len(sparse), bool), np.ones(len(dense), bool)])
    order = np.argsort(pairs[:, 0], kind="stable")
    return FramePlan(pairs[order], is_dense[order])


def _outside(uniform: FramePlan, spans: Sequence[Span]) -> list[int]:
    """Indices of the pairs of the uniform grid that no span touches, not even between their two times."""
    return [
        index
        for index, (first, second) in enumerate(uniform.pairs_s)
        if not any(span.overlaps(Span(first, second)) for span in spans)
    ]


def _dense_pairs(
    spans: Sequence[Span],
    sparse_available: int,
    budget_pairs: int,
    uniform_pairs: int,
    settings: SamplingSettings,
) -> int:
    """How many pairs the key spans get together."""
    if settings.dense_share == 0.0:
        return 0
    length_s = sum(span.length_s for span in spans)
    share = max(1, int(budget_pairs * settings.dense_share))
    rest = budget_pairs - sparse_available
    rate_pairs = math.ceil(min(budget_pairs, length_s * settings.dense_rate_fps / PAIR))
    by_rate = max(len(spans), rate_pairs)
    # At least as many inside the spans as the uniform grid has there.
    at_least = min(uniform_pairs - sparse_available, budget_pairs)
    return min(max(at_least, min(by_rate, max(share, rest))), budget_pairs)


def _spread(indices: Sequence[int], count: int) -> NDArray[np.intp]:
    """At most `count` of the indices, evenly spread over them."""
    if count >= len(indices):
        return np.asarray(indices, dtype=np.intp)
    picks = (np.arange(count) + 0.5) * len(indices) / max(count, 1)
    return np.asarray(indices, dtype=np.intp)[picks.astype(np.intp)]


def _allocate(spans: Sequence[Span], pairs: int) -> list[int]:
    """Number of pairs for each span: first one for each while they last, longest first; the rest by length."""
    counts = np.zeros(len(spans), int)
    lengths = np.array([span.length_s for span in spans])
    longest_first = np.argsort(-lengths, kind="stable")
    counts[longest_first[:pairs]] = 1
    remaining = pairs - int(counts.sum())
    if remaining > 0:
        shares = lengths / lengths.sum() * remaining
        counts += shares.astype(int)
        by_fraction = np.argsort(-(shares - shares.astype(int)), kind="stable")
        counts[by_fraction[: remaining - int(shares.astype(int).sum())]] += 1
    return counts.tolist()


def _anchored(pairs: NDArray[np.float64], keyframe_times_s: Sequence[float], span: Span) -> NDArray[np.float64]:
    """Move the time nearest to each keyframe onto it, and keep the order strict.

    Only the two neighbours of a keyframe can move there without passing another time. A neighbour that is already at a
    keyframe stays there.
    """
    times = pairs.reshape(-1).copy()
    keyframes_s = sorted({time_s for time_s in keyframe_times_s if span.contains(time_s)})
    taken = set(np.flatnonzero(np.isin(times, keyframes_s)).tolist())
    for time_s in keyframes_s:
        above = int(np.searchsorted(times, time_s))
        if above < len(times) and times[above] == time_s:
            continue
        free = [i for i in (above - 1, above) if 0 <= i < len(times) and i not in taken]
        if free:
            nearest = min(free, key=lambda index: abs(times[index] - time_s))
            times[nearest] = time_s
            taken.add(nearest)
    return times.reshape(pairs.shape)
