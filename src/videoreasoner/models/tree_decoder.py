"""Prompt trees in one key-value cache, a row each, decoded together.

Each step feeds the newest token of every live leaf of every tree; a mask over the cache lets a leaf see its ancestors
and itself. So a trunk's keys and values exist once, whatever the number of its leaves, a step costs one forward pass,
whatever the number of trees, and the result equals decoding separate rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache, Qwen2VLForConditionalGeneration

from videoreasoner.models.grammar import TokenTrie
from videoreasoner.models.prompt_tree import ROOT, PromptTree, Trunk
from videoreasoner.utils.renamed import known_name

Pick = Callable[[Tensor, Sequence[int]], Tensor]
"""(float32[n, V] logits, the n leaves they belong to) -> int64[n] chosen ids."""

# The owner of a column of the cache that pads a row to the common length; no token attends to it.
_PADDING = -2
# transformers 5.24 renamed the argument, in all families at once. An adapter around a model hides its signature.
_CACHE = known_name(Qwen2VLForConditionalGeneration.forward, "cache", "past_key_values")


def greedy(logits: Tensor, leaves: Sequence[int]) -> Tensor:
    return logits.argmax(dim=-1)


@dataclass(frozen=True)
class Leaf:
    """A completion to be decoded behind a node.

    Attributes:
        parent: the node it continues.
        grammar: what it may write; anything when None.
        tree: the number of its tree.
    """

    parent: int
    grammar: TokenTrie | None = None
    tree: int = 0


class TreeDecoder:
    """Prompt trees whose trunks and nodes live in one key-value cache.

    Args:
        model: a transformers Qwen-VL model for conditional generation, in evaluation mode.
        trunks: text and clips at the root of each tree.
        features: for each tree float[N, D], one row for each visual token of its trunk, in order.
        end_ids: ids that end a completion.
        banned_ids: ids that are never written: visual and padding tokens.
    """

    @torch.inference_mode()
    def __init__(
        self,
        model: Any,
        trunks: Sequence[Trunk],
        features: Sequence[Tensor],
        end_ids: Sequence[int],
        banned_ids: Sequence[int],
    ) -> None:
        self.model = model
        self.device = model.get_input_embeddings().weight.device
        self.trees = [PromptTree(trunk) for trunk in trunks]
        self.end_ids = frozenset(end_ids)
        self.banned = torch.tensor(sorted(banned_ids), device=self.device, dtype=torch.long)
        # One at a time: several long trunks at once would need the memory of several, and be no faster.
        prefilled = [self._prefill(trunk, clip) for trunk, clip in zip(trunks, features, strict=True)]
        self.cache = _stacked(model, [cache for cache, _ in prefilled])
        # Logits behind the last token of the trunk and of every node that has been fed whole.
        self._after: list[dict[int, Tensor]] = [{ROOT: logits} for _, logits in prefilled]
        lengths = torch.tensor([len(trunk) for trunk in trunks])
        columns = torch.arange(int(lengths.max()))
        self._owner = torch.full((len(trunks), len(columns)), ROOT)
        self._owner[columns >= lengths[:, None]] = _PADDING
        self._related: dict[int, Tensor] = {}

    def _prefill(self, trunk: Trunk, features: Tensor) -> tuple[DynamicCache, Tensor]:
        """The trunk's keys and values, and float32[V] logits behind it."""
        cache = DynamicCache(config=self.model.config.get_text_config())
        embeddings = self.model.get_input_embeddings()(trunk.input_ids.to(self.device))
        embeddings[trunk.visual.to(self.device)] = features.to(embeddings.dtype)
        # Without a mask the stock model takes its fastest causal kernel.
        output = self.model(
            inputs_embeds=embeddings[None],
            position_ids=trunk.positions[0][:, None].to(self.device),
            use_cache=True,
            logits_to_keep=1,
            **{_CACHE: cache},
        )
        return cache, output.logits[0, -1].float()

    @property
    def columns(self) -> int:
        """Length of the cache in tokens."""
        return self._owner.shape[1]

    @property
    def is_finite(self) -> bool:
        """Whether the model gives numbers behind every trunk."""
        return all(bool(after[ROOT].isfinite().all()) for after in self._after)

    def forget(self) -> None:
        """Drop every node; the trunks stay."""
        self.crop([0] * len(self.trees), max(len(tree.trunk) for tree in self.trees))

    def add(self, nodes: Sequence[Sequence[tuple[Sequence[int], int]]]) -> list[list[int]]:
        """For each tree, append nodes (token ids, parent); a parent may be an earlier one of them.

        Returns their numbers.
        """
        numbers = [
            [tree.add(tokens, parent) for tokens, parent in some] for tree, some in zip(self.trees, nodes, strict=True)
        ]
        ends = [
            torch.tensor([len(tree.tokens[n]) for n in added], dtype=torch.long).cumsum(0) - 1
            for tree, added in zip(self.trees, numbers, strict=True)
        ]
        logits = self._feed([[(n, 0) for n in added] for added in numbers], ends)
        for after, added, found in zip(self._after, numbers, logits, strict=True):
            after.update(zip(added, found, strict=True))
        return numbers

    def generate(self, leaves: Sequence[Leaf], max_new_tokens: int, pick: Pick = greedy) -> list[list[int]]:
        """Decode all leaves together. Each result ends with an end token, or is `max_new_tokens` long.

        A leaf becomes a node of its tree, so that its tokens stay in the cache.
        """
        written: list[list[int]] = [[] for _ in leaves]
        numbers: list[int | None] = [None] * len(leaves)
        live = sorted(range(len(leaves)), key=lambda i: leaves[i].tree)
        logits = torch.stack([self._after[leaves[i].tree][leaves[i].parent] for i in live])
        while live:
            allowed = self._restrict(logits, [leaves[i] for i in live], [written[i] for i in live])
            chosen = pick(allowed, live).tolist()
            for i, token in zip(live, chosen, strict=True):
                written[i].append(token)
            live = [i for i in live if written[i][-1] not in self.end_ids and len(written[i]) < max_new_tokens]
            if not live:
                break
            fed: list[list[tuple[int, int]]] = [[] for _ in self.trees]
            for i in live:
                tree, number = self.trees[leaves[i].tree], numbers[i]
                if number is None:
                    number = numbers[i] = tree.add(written[i], leaves[i].parent)
                else:
                    tree.tokens[number] = tuple(written[i])
                fed[leaves[i].tree].append((number, len(written[i]) - 1))
            logits = torch.cat(self._feed(fed, [torch.arange(len(some)) for some in fed]))
        return written

    def score(self, continuations: Sequence[Sequence[int]], parent: int, tree: int = 0) -> list[Tensor]:
        """Log-probability of every token of each continuation behind a node: float32[n] each.

        Cache and trees are left as they were.
        """
        sizes, columns = [len(one.tokens) for one in self.trees], self.columns
        numbers = [self.trees[tree].add(tokens, parent) for tokens in continuations]
        count = sum(map(len, continuations))
        fed: list[list[tuple[int, int]]] = [[] for _ in self.trees]
        wanted = [torch.arange(0) for _ in self.trees]
        fed[tree], wanted[tree] = [(n, 0) for n in numbers], torch.arange(count)
        logits = self._feed(fed, wanted)[tree]
        results, offset = [], 0
        for tokens in continuations:
            before = self._after[tree][parent]
            predicted = torch.cat([before[None], logits[offset : offset + len(tokens) - 1]])
            ids = torch.tensor(tokens, device=self.device)
            results.append(predicted.log_softmax(-1).gather(1, ids[:, None])[:, 0])
            offset += len(tokens)
        self.crop(sizes, columns)
        return results

    def crop(self, sizes: Sequence[int], columns: int) -> None:
        """Go back to so many nodes of each tree, and so long a cache."""
        for number, (tree, size) in enumerate(zip(self.trees, sizes, strict=True)):
            del tree.tokens[size:], tree.parents[size:]
            self._after[number] = {n: logits for n, logits in self._after[number].items() if n < size}
        self._related.clear()
        surplus = self.columns - columns
        self._owner = self._owner[:, :columns]
        # A negative number says how many to remove; transformers gives up the other form. Some versions read 0 as all.
        if surplus:
            self.cache.crop(-surplus)

    def _restrict(self, logits: Tensor, leaves: Sequence[Leaf], written: Sequence[Sequence[int]]) -> Tensor:
        logits = logits.clone()
        logits[:, self.banned] = -torch.inf
        for row, (leaf, tokens) in enumerate(zip(leaves, written, strict=True)):
            if leaf.grammar is not None:
                choices = leaf.grammar.allowed(tokens)
                kept = logits[row, choices]
                logits[row] = -torch.inf
                logits[row, choices] = kept
        return logits

    @torch.inference_mode()
    def _feed(self, fed: Sequence[Sequence[tuple[int, int]]], wanted: Sequence[Tensor]) -> list[Tensor]:
        """For each tree, feed each node's tokens from a given index on.

        Args:
            wanted: for each tree, of which of its new tokens the logits are needed.

        Returns:
            For each tree float32[n, V].
        """
        rows = [self._row(tree, some) for tree, some in zip(self.trees, fed, strict=True)]
        ids = pad_sequence([row[0] for row in rows], batch_first=True)
        positions = pad_sequence([row[1] for row in rows], batch_first=True)
        owner = pad_sequence([row[2] for row in rows], batch_first=True, padding_value=_PADDING)
        self._owner = torch.cat([self._owner, owner], dim=1)
        kept, places = torch.cat(list(wanted)).unique(return_inverse=True)
        output = self.model(
            input_ids=ids.to(self.device),
            position_ids=positions.expand(3, -1, -1).to(self.device),
            attention_mask=self._mask(owner).to(self.device),
            use_cache=True,
            logits_to_keep=kept.to(self.device),
            **{_CACHE: self.cache},
        )
        found = places.split([len(some) for some in wanted])
        return [logits[own.to(self.device)].float() for logits, own in zip(output.logits, found, strict=True)]

    def _row(self, tree: PromptTree, fed: Sequence[tuple[int, int]]) -> tuple[Tensor, Tensor, Tensor]:
        """int64[n] ids, positions and owners of a tree's new tokens."""
        new: list[tuple[int, int, int]] = []
        for number, first in fed:
            start = tree.next_position(tree.parents[number]) + first
            new += [(token, position, number) for position, token in enumerate(tree.tokens[number][first:], start)]
        ids, positions, owners = torch.tensor(new, dtype=torch.long).view(-1, 3).unbind(1)
        return ids, positions, owners

    def _mask(self, owner: Tensor) -> Tensor:
        """bool[B, 1, n, L]: which of the L places of the cache, the n new ones last, each new token sees."""
        count = owner.shape[1]
        before = self.columns - count
        seen = []
        for number, (tree, new, all_) in enumerate(zip(self.trees, owner, self._owner, strict=True)):
            related = self._related.get(number)
            if related is None or len(related) != len(tree.tokens) + 1:
                related = self._related[number] = tree.related()
            seen.append(related[new + 1][:, all_ + 1] & (all_ != _PADDING))
        mask = torch.stack(seen)
        mask[:, :, before:] &= torch.ones(count, count, dtype=torch.bool).tril()
        # A padding token sees itself: a row of the mask without any True would turn into NaN.
        mask[:, :, before:] |= torch.eye(count, dtype=torch.bool)
        return mask[:, None]


def _stacked(model: Any, caches: Sequence[DynamicCache]) -> DynamicCache:
    """Caches of one row as one cache, filled up behind each row's end."""
    if len(caches) == 1:
        return caches[0]
    stacked = DynamicCache(config=model.config.get_text_config())
    for number in range(len(caches[0].layers)):
        layers: list[Any] = [cache.layers[number] for cache in caches]
        # float[1, H, L, D] each; filled up along L, so that comes first.
        keys, values = (
            pad_sequence([part[0].transpose(0, 1) for part in parts], batch_first=True).transpose(1, 2)
            for parts in ([layer.keys for layer in layers], [layer.values for layer in layers])
        )
        stacked.update(keys, values, number)
        for layer in layers:
            layer.keys = layer.values = None
    return stacked
