"""Which frames of a video are searched: at even times where that is cheap, else those that are cheap to decode.

A frame costs the decoding of all frames since the key frame before it. So a thousand frames of an hour of video can
cost the decoding of most of it, and a thousand key frames next to nothing. Everything is decided from the frame table
of the video and the settings, so the same video is always searched in the same way.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from videoreasoner.retrieval.keyframes import retrieval_times
from videoreasoner.settings import Settings
from videoreasoner.video.pyav.planned import FRAMES_WORTH_A_SEEK
from videoreasoner.video.reader import VideoReader
from videoreasoner.video.sampling import on_key_frames, uniform_plan

# How many frames a search may add to those that the sparse pass decodes: a share of them, or this many, which is a
# minute of ordinary video.
ADDED_SHARE = 0.25
ADDED_FRAMES = 1500

Times = Sequence[float] | NDArray[np.float64]


def sparse_key_times(video: VideoReader, settings: Settings) -> NDArray[np.float64]:
    """float64[K], seconds: the key frames on which sparse frames stand; empty unless `sparse_seek` is "keyframe"."""
    return video.key_times_s if settings.sparse_seek == "keyframe" else np.empty(0)


def search_times(video: VideoReader, settings: Settings) -> NDArray[np.float64]:
    """The times of the frames to search.

    The video is cut into equal slots (`retrieval_times`), and `retrieval_seek` decides which frame of a slot is
    searched:

        exact     the one at the centre of the slot
        keyframe  the key frame nearest to the centre; a slot without a key frame is left out
        auto      as "exact" if this adds at most a quarter to the frames that the sparse pass decodes, or at most
                  `ADDED_FRAMES`. Otherwise the frame at the centre where the sparse pass decodes it on its way, and
                  evenly spread key frames of other slots, whose cost is at most that limit, or `frame_budget` of them

    A video that does not list its key frames is searched as under "exact".

    Returns:
        float64[T], seconds, increasing, in [0, duration_s); T is at least 1.
    """
    duration_s, keys_s = video.duration_s, video.key_times_s
    sparse_keys_s = sparse_key_times(video, settings)
    centres_s = retrieval_times(duration_s, settings.retrieval_rate_fps, settings.retrieval_max_frames, sparse_keys_s)
    if settings.retrieval_seek == "exact" or not len(keys_s):
        return centres_s
    moved_s = on_key_frames(centres_s, duration_s, keys_s)
    has_key = np.isin(moved_s, keys_s)
    if settings.retrieval_seek == "keyframe":
        return moved_s[has_key]
    frames_s = video.frame_times_s
    sparse_s = uniform_plan(duration_s, settings.sampling, sparse_keys_s).times_s
    alone = frames_to_decode(sparse_s, frames_s, keys_s)
    allowed = max(ADDED_FRAMES, int(ADDED_SHARE * alone))
    if frames_to_decode(np.concatenate([sparse_s, centres_s]), frames_s, keys_s) - alone <= allowed:
        return centres_s
    is_passed = passed(centres_s, sparse_s, frames_s, keys_s)
    others = np.flatnonzero(has_key & ~is_passed)
    most = max(settings.frame_budget, allowed // (FRAMES_WORTH_A_SEEK + 1))
    kept = others[_spread(len(others), most)]
    # Each time lies in a slot of its own, so sorting keeps them distinct.
    return np.sort(np.concatenate([centres_s[is_passed], moved_s[kept]]))


def frames_to_decode(times_s: Times, frame_times_s: Times, key_times_s: Times) -> int:
    """How many frames are decoded to get some of them, with seeks counted as `FRAMES_WORTH_A_SEEK` frames.

    Args:
        times_s: seconds, in any order: when the wanted frames are on screen.
        frame_times_s: seconds, ascending: when each frame is shown.
        key_times_s: seconds, ascending: when key frames are shown.
    """
    starts, groups, positions = _groups(times_s, frame_times_s, key_times_s)
    opened, counts = np.unique(groups, return_counts=True)
    lasts, begins = positions[np.cumsum(counts) - 1], starts[opened]
    # Where less than a seek's worth lies between two groups, the frames between them are decoded instead.
    between = np.minimum(begins[1:] - lasts[:-1] - 1, FRAMES_WORTH_A_SEEK)
    return int((lasts - begins + 1).sum() + between.sum())


def passed(times_s: Times, others_s: Times, frame_times_s: Times, key_times_s: Times) -> NDArray[np.bool_]:
    """bool[T]: whether a frame is decoded on the way to one of the frames at `others_s`.

    Args:
        times_s: float[T], seconds, ascending.
        others_s, frame_times_s, key_times_s: as for `frames_to_decode`.
    """
    _, groups, positions = _groups(times_s, frame_times_s, key_times_s)
    _, other_groups, other_positions = _groups(others_s, frame_times_s, key_times_s)
    # The next of the others lies in the same group.
    following = np.searchsorted(other_positions, positions)
    is_there = following < len(other_positions)
    return is_there & (other_groups[np.minimum(following, len(other_positions) - 1)] == groups)


def _groups(
    times_s: Times, frame_times_s: Times, key_times_s: Times
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Where groups of pictures begin in the frame table; group and position of each frame, by position."""
    shown_s = np.asarray(frame_times_s)
    starts = np.union1d([0], np.searchsorted(shown_s, key_times_s)).astype(np.int64)
    positions = np.sort(np.maximum(np.searchsorted(shown_s, times_s, side="right") - 1, 0))
    return starts, np.searchsorted(starts, positions, side="right") - 1, positions


def _spread(count: int, most: int) -> NDArray[np.int64]:
    """int64: at most `most` of the numbers below `count`, evenly spread."""
    if count <= most:
        return np.arange(count)
    return ((np.arange(most) + 0.5) * count / most).astype(np.int64)
