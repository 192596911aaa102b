"""Which decoded frames are damaged, and which others build on them. Pure."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable

# An H.264 decoder keeps up to 16 frames, and about as many more wait to be used again.
_FRAMES_KEPT = 32


class Damage:
    """The damage among the frames that one decoding run has shown so far.

    A frame is hurt by damage between the last whole key picture before it and the last frame that it may depend on.
    Frames come in the order of their stamps.

    Args:
        expected: the stamps that a whole video shows in this run, ascending.
    """

    def __init__(self, expected: Iterable[int] = ()) -> None:
        self._expected = list(expected)
        self._shown = 0
        self._damaged: list[int] = []
        self._whole_keys: list[int] = []
        # Whether the run's first frame is the expected one and whole; False while there is none.
        self.begins_well = False

    def show(self, stamp: int, *, is_whole: bool, is_key: bool) -> None:
        """A frame has come out. Expected frames that it jumps over are missing."""
        place = bisect_right(self._expected, stamp)
        missing = self._expected[self._shown : place - 1] if place and self._expected[place - 1] == stamp else []
        if not self._shown:
            self.begins_well = is_whole and not missing and not self._damaged
        self._damaged += missing
        self._shown = max(place, self._shown)
        if not is_whole:
            self._damaged.append(stamp)
        elif is_key:
            self._whole_keys.append(stamp)

    def fail(self, stamp: int | None) -> None:
        """Data could not be decoded. It was for the frame at `stamp`; None: for the next frame, or a later one."""
        if stamp is None and self._shown < len(self._expected):
            stamp = self._expected[self._shown]
        if stamp is not None:
            self._damaged.append(stamp)

    @property
    def has_lead(self) -> bool:
        """Whether whole frames come before any damage: two key pictures, and as many frames as a decoder keeps.

        A decoder fills damage from earlier pictures, and in H.264 from those before the last key frame, too.
        """
        if not self._damaged:
            return True
        first = min(self._damaged)
        return bisect_right(self._whole_keys, first) >= 2 and bisect_left(self._expected, first) >= _FRAMES_KEPT

    def hurts(self, stamp: int, last: int) -> bool:
        """Whether the frame at `stamp`, which depends on no frame behind `last`, builds on damaged data."""
        before = bisect_right(self._whole_keys, stamp)
        since = self._whole_keys[before - 1] if before else None
        return any((since is None or since <= each) and each <= last for each in self._damaged)
