"""From features to keyframes: which moments of a video match a text best. It works on features alone.

The method of the paper (section "Multimodal Inference Pipeline"): frames at one
per second, features averaged over short segments, the best segment for each key element, sorted by
similarity.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import normalize

from videoreasoner.errors import SettingError
from videoreasoner.video.sampling import on_key_frames

# Below this, the difference of two cosines of float32 features is rounding, which depends on the
# batch size: the earliest of such segments wins, so that the batch size does not move a keyframe.
SCORE_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Keyframe:
    """The moment that matches a key element best.

    Attributes:
        time_s: seconds; the time of the middle frame of the segment.
        element: the key element, as words.
        score: cosine similarity of element and segment, in [-1, 1].
        start_s: seconds; where the segment starts, at most `time_s`.
        end_s: seconds; where the segment ends, at least `time_s`.
    """

    time_s: float
    element: str
    score: float
    start_s: float
    end_s: float


def retrieval_times(
    duration_s: float,
    rate_fps: float = 1.0,
    max_frames: int = 768,
    key_times_s: Sequence[float] | NDArray[np.float64] = (),
) -> NDArray[np.float64]:
    """The times of the frames to search: the centres of equal slots of the video.

    Args:
        duration_s: length of the video in seconds.
        rate_fps: frames per second, not exceeded unless the video is shorter than one slot.
        max_frames: most frames; a longer video is sampled more sparsely.
        key_times_s: when key frames are shown, ascending, seconds; each time moves onto the key frame nearest to it
            in its own slot, if there is one (see `videoreasoner.video.sampling.on_key_frames`).

    Returns:
        float64[T], seconds, increasing, in [0, duration_s); T is at least 1.

    Raises:
        SettingError: a duration or rate that is not positive and finite, or max_frames below 1.
    """
    for name, value in (("duration_s", duration_s), ("rate_fps", rate_fps)):
        if not (math.isfinite(value) and value > 0):
            raise SettingError(f"{name} must be positive and finite, not {value}")
    if max_frames < 1:
        raise SettingError(f"max_frames must be at least 1, not {max_frames}")
    count = max(1, int(min(duration_s * rate_fps, max_frames)))
    centres = (np.arange(count, dtype=np.float64) + 0.5) * np.float64(duration_s / count)
    return on_key_frames(centres, duration_s, key_times_s)


def distinct_elements(elements: Sequence[str]) -> list[str]:
    """The key elements without blank and repeated ones, in their order, with their spaces tidied.

    Two that differ only in case or spaces count as one; the first is kept.
    """
    kept: dict[str, str] = {}
    for element in elements:
        text = " ".join(element.split())
        if text:
            kept.setdefault(text.casefold(), text)
    return list(kept.values())


def segment_means(
    image_features: torch.Tensor, segment_frames: int
) -> tuple[torch.Tensor, NDArray[np.int64], NDArray[np.int64]]:
    """Average the features of neighbouring frames.

    Args:
        image_features: float[T, D], one row a frame, in the order of time; only directions count.
        segment_frames: frames a segment; the last segment may have fewer.

    Returns:
        means: float64[S, D], of unit length (a segment whose frames cancel out stays zero).
        first: int64[S], index of the first frame of each segment.
        last: int64[S], index of its last frame.

    Raises:
        SettingError: segment_frames below 1.
        ValueError: features that are not a finite matrix.
    """
    if segment_frames < 1:
        raise SettingError(f"segment_frames must be at least 1, not {segment_frames}")
    rows = _unit_rows(image_features, "image_features")
    first = np.arange(0, len(rows), segment_frames, dtype=np.int64)
    last = np.minimum(first + segment_frames, len(rows)) - 1
    if len(rows) == 0:
        return rows, first, last
    segments = rows.split(segment_frames)
    means = torch.stack([segment.mean(dim=0) for segment in segments])
    return normalize(means, dim=-1), first, last


@dataclass(frozen=True, eq=False)
class SegmentScores:
    """How well each of E texts matches each of S segments of a video.

    A segment reaches half-way to the frames sampled before and after it, or to the beginning and the end of the video:
    the segments cover the video once.

    Attributes:
        scores: float64[E, S], cosine similarities in [-1, 1].
        times_s: float64[S], seconds, the time of each segment's middle frame.
        start_s, end_s: float64[S], seconds, where each segment starts and ends.
    """

    scores: NDArray[np.float64]
    times_s: NDArray[np.float64]
    start_s: NDArray[np.float64]
    end_s: NDArray[np.float64]


@dataclass(frozen=True)
class Moment:
    """A stretch of the video in which a text matches well.

    Attributes:
        time_s: seconds; the middle frame of its best segment.
        start_s, end_s: seconds; where the stretch starts and ends.
        score: cosine similarity of the text and the best segment, in [-1, 1].
    """

    time_s: float
    start_s: float
    end_s: float
    score: float


def score_segments(
    text_features: torch.Tensor,
    image_features: torch.Tensor,
    times_s: NDArray[np.float64],
    *,
    segment_frames: int = 1,
    duration_s: float,
) -> SegmentScores:
    """Compare each text with each segment of a video.

    Args:
        text_features: float[E, D], one row for each text; only directions count.
        image_features: float[T, D], one row for each frame; only directions count.
        times_s: float64[T], seconds, the true times of the frames, not decreasing.
        segment_frames: frames whose features are averaged into a segment.
        duration_s: length of the video in seconds.

    Raises:
        SettingError: segment_frames below 1, or a duration that is not positive.
        ValueError: shapes that do not belong together, no frames, features that are not finite,
            times that decrease or lie outside [0, duration_s].
    """
    if not (math.isfinite(duration_s) and duration_s > 0):
        raise SettingError(f"duration_s must be positive and finite, not {duration_s}")
    texts = _unit_rows(text_features, "text_features")
    means, first, last = segment_means(image_features, segment_frames)
    if texts.shape[1] != means.shape[1]:
        raise ValueError(f"text features have {texts.shape[1]} dimensions, image features {means.shape[1]}")
    edges = _edges(times_s, len(image_features), duration_s)
    scores = np.empty((len(texts), len(means)))
    for row, text in enumerate(texts):
        # One text at a time: rounding in a product of matrices would depend on the other texts.
        scores[row] = (means @ text).clamp(-1.0, 1.0).numpy()
    return SegmentScores(
        scores=scores,
        times_s=times_s[(first + last) // 2],
        start_s=edges[first, 0],
        end_s=edges[last, 1],
    )


def select_keyframes(segments: SegmentScores, elements: Sequence[str]) -> list[Keyframe]:
    """The best segment for each key element; of equally good ones the earliest.

    Args:
        segments: their scores for the elements.
        elements: E key elements, in the order of the rows of `segments.scores`.

    Returns:
        One keyframe for each element, highest score first.

    Raises:
        ValueError: there are more or fewer elements than rows.
    """
    keyframes = []
    for element, scores in zip(elements, segments.scores, strict=True):
        best = _earliest_best(scores)
        keyframes.append(
            Keyframe(
                time_s=float(segments.times_s[best]),
                element=element,
                score=float(scores[best]),
                start_s=float(segments.start_s[best]),
                end_s=float(segments.end_s[best]),
            )
        )
    return sorted(keyframes, key=lambda keyframe: -keyframe.score)


def find_moments(segments: SegmentScores, row: int, most: int) -> list[Moment]:
    """The stretches of the video in which one text matches best, best first.

    A moment is a run of neighbouring segments whose scores are at least halfway between the lowest and the highest
    score of that text in this video. So the first moment holds the text's keyframe, and a text that matches the whole
    video equally well has one moment, which is the whole video.

    Args:
        segments: the scores.
        row: which of the texts.
        most: how many moments to return at most.
    """
    scores = segments.scores[row]
    level = (scores.min() + scores.max()) / 2
    high = np.concatenate([[False], scores >= level - SCORE_TOLERANCE, [False]])
    borders = np.flatnonzero(high[1:] != high[:-1])
    runs: list[tuple[int, int]] = []
    for first, end in zip(borders[::2].tolist(), borders[1::2].tolist(), strict=True):
        # A video with few frames gives one frame for several wanted times. Their segments share a stretch of time, and
        # two runs that share one are the same moment.
        if runs and segments.start_s[first] < segments.end_s[runs[-1][1] - 1]:
            runs[-1] = (runs[-1][0], end)
        else:
            runs.append((first, end))
    moments = []
    for first, end in runs:
        best = first + _earliest_best(scores[first:end])
        moments.append(
            Moment(
                time_s=float(segments.times_s[best]),
                start_s=float(segments.start_s[first]),
                end_s=float(segments.end_s[end - 1]),
                score=float(scores[best]),
            )
        )
    best_score = scores.max()
    # Of equally good ones the earliest comes first, as for keyframes.
    moments.sort(key=lambda moment: -best_score if moment.score >= best_score - SCORE_TOLERANCE else -moment.score)
    return moments[:most]


def _earliest_best(scores: NDArray[np.float64]) -> int:
    return int(np.flatnonzero(scores >= scores.max() - SCORE_TOLERANCE)[0])


def _unit_rows(features: torch.Tensor, name: str) -> torch.Tensor:
    """float[N, D] -> float64[N, D], rows of unit length, on the CPU."""
    if features.ndim != 2 or features.shape[1] == 0:
        raise ValueError(f"{name} must be [N, D], not {list(features.shape)}")
    if not torch.isfinite(features).all():
        raise ValueError(f"{name} holds values that are not finite")
    return normalize(features.detach().to(device="cpu", dtype=torch.float64), dim=-1)


def _edges(times_s: NDArray[np.float64], count: int, duration_s: float) -> NDArray[np.float64]:
    """float64[T, 2]: where the stretch of each frame starts and ends, in seconds."""
    if count == 0:
        raise ValueError("no frames to search")
    if times_s.shape != (count,):
        raise ValueError(f"{count} image features need as many times, not {times_s.shape}")
    # Written so that a time that is not a number is refused too.
    if not (times_s[0] >= 0 and times_s[-1] <= duration_s and (np.diff(times_s) >= 0).all()):
        raise ValueError(f"times_s must not decrease and must lie in [0, {duration_s}]")
    # A video with few frames gives the same frame for two wanted times: they share one stretch.
    distinct, position = np.unique(times_s, return_inverse=True)
    borders = np.concatenate([[0.0], (distinct[:-1] + distinct[1:]) / 2, [duration_s]])
    return np.stack([borders[position], borders[position + 1]], axis=1)
