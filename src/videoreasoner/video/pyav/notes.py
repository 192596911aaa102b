"""What is wrong with a video, collected while it is read, as one sentence for each kind of trouble."""

from __future__ import annotations

import numpy as np

from videoreasoner.video.pyav.index import FrameIndex

# Most times that one sentence lists.
_TIMES_LISTED = 5


class Notes:
    """Sentences about a video. In each, "{at}" stands for the times of all its stamps."""

    def __init__(self) -> None:
        self._stamps: dict[str, set[int]] = {}

    def add(self, sentence: str, stamp: int | None = None) -> None:
        """Keep a sentence, and the presentation stamp at which it applies if that is known."""
        self._stamps.setdefault(sentence, set()).update([] if stamp is None else [stamp])

    def sentences(self, index: FrameIndex | None) -> list[str]:
        """The sentences with their times, in the order in which they were first added.

        Args:
            index: the table that the stamps belong to; None while it has not been read, when no stamp is known.
        """
        return [text.replace("{at}", _at(stamps, index)) for text, stamps in self._stamps.items()]


def _at(stamps: set[int], index: FrameIndex | None) -> str:
    if not stamps or index is None:
        return ""
    times_s = index.seconds(np.array(sorted(stamps)))
    listed = ", ".join(f"{time_s:.2f} s" for time_s in times_s[:_TIMES_LISTED])
    rest = len(times_s) - _TIMES_LISTED
    return f" at {listed}" + (f" and {rest} more" if rest > 0 else "")
