"""What a completion may contain: a set of texts, as a trie of token ids.

With the event grammar every completion of the event task is a readable, non-empty interval inside the video.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Any

from videoreasoner.models.prompt_encoder import PromptEncoder
from videoreasoner.tasks import EVENT_END, EVENT_START, Task


class TokenTrie:
    """A finite set of token sequences that answers "what may come next?"."""

    def __init__(self, sequences: Iterable[Sequence[int]]) -> None:
        self._root: dict[int, Any] = {}
        for sequence in sequences:
            node = self._root
            for token in sequence:
                node = node.setdefault(token, {})

    def allowed(self, written: Sequence[int]) -> list[int]:
        """Token ids that may follow; none after a whole sequence.

        Raises:
            KeyError: what was written is not the start of any sequence.
        """
        node = self._root
        for token in written:
            node = node[token]
        return list(node)


def event_grammar(encoder: PromptEncoder) -> TokenTrie:
    """All intervals with two decimals and start < end, each followed by the end of the turn."""
    shares = [f"{i / 100:.2f}" for i in range(101)]
    return TokenTrie(
        (*encoder.completion(Task.EVENT, f"{EVENT_START}[{start}, {end}]{EVENT_END}"), encoder.end_id)
        for start, end in combinations(shares, 2)
    )
