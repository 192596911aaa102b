"""Decoding on one prompt tree: what asking needs of a forest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from videoreasoner.models.prompt_tree import PromptTree, Trunk
from videoreasoner.models.tree_decoder import Forest, Leaf, Pick, greedy


class TreeDecoder:
    """A prompt tree whose trunk and nodes live in one key-value cache. See `Forest` for arguments and results."""

    def __init__(
        self, model: Any, trunk: Trunk, features: Tensor, end_ids: Sequence[int], banned_ids: Sequence[int]
    ) -> None:
        self._forest = Forest(model, [trunk], [features], end_ids, banned_ids)

    @property
    def tree(self) -> PromptTree:
        return self._forest.trees[0]

    @property
    def tokens_cached(self) -> int:
        return self._forest.columns

    def add(self, nodes: Sequence[tuple[Sequence[int], int]]) -> list[int]:
        """Append nodes (token ids, parent) and feed them as one row; a parent may be an earlier one of them."""
        return self._forest.add([nodes])[0]

    def generate(self, leaves: Sequence[Leaf], max_new_tokens: int, pick: Pick = greedy) -> list[list[int]]:
        return self._forest.generate(leaves, max_new_tokens, pick)

    def score(self, continuations: Sequence[Sequence[int]], parent: int) -> list[Tensor]:
        return self._forest.score(continuations, parent)

    def forget(self) -> None:
        """Drop every node; the trunk stays."""
        self._forest.crop([0], len(self.tree.trunk))
