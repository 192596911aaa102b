"""In which runs to decode wanted frames: a seek where they are far apart, straight on where they are close. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from videoreasoner.video.pyav.index import FrameIndex

# A seek throws away what the decoder had begun; decoding so many frames on costs about as much.
FRAMES_WORTH_A_SEEK = 16
# A run of this many frames is long enough to be worth a decoder of its own.
FRAMES_WORTH_A_THREAD = 64


class Run(NamedTuple):
    """Frames that are decoded in one go.

    Attributes:
        key: number of the key frame in `FrameIndex.keys` where decoding begins.
        positions: which frames of the table are wanted; they never decrease.
    """

    key: int
    positions: tuple[int, ...]


def plan_runs(positions: Iterable[int], index: FrameIndex, threads: int = 1) -> list[Run]:
    """Cut the wanted frames, in their order, into runs.

    Within a group of pictures decoding goes on. To a later group it goes on if no more than
    `FRAMES_WORTH_A_SEEK` frames lie between the last wanted frame and that group's key frame; with
    several threads, a run that has become long ends there all the same, for another thread to go on.

    Args:
        positions: places in the frame table, in any order.
        threads: how many runs can be decoded at the same time.
    """
    runs: list[tuple[int, list[int]]] = []
    at_key = 0
    for position in positions:
        key = index.key_before(int(index.stamps[position]))
        if runs and position >= (last := runs[-1][1][-1]):
            is_long = threads > 1 and last - runs[-1][1][0] >= FRAMES_WORTH_A_THREAD
            if key <= at_key or (not is_long and _frames_between(last, key, index) <= FRAMES_WORTH_A_SEEK):
                runs[-1][1].append(position)
                at_key = max(at_key, key)
                continue
        runs.append((key, [position]))
        at_key = key
    return [Run(key, tuple(wanted)) for key, wanted in runs]


def _frames_between(position: int, key: int, index: FrameIndex) -> int:
    """How many frames are shown from a position to a later key frame."""
    return int(np.searchsorted(index.stamps, index.keys[key, 0])) - position
