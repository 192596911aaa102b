"""Decoding on a prompt tree: one trunk in the cache, all leaves one row a step.

Each step feeds the newest token of every live leaf as one row; a mask over the shared cache lets a leaf see its
ancestors and itself. So the trunk's keys and values exist once, whatever the number of leaves, and the result equals
decoding separate rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from videoreasoner.models.grammar import TokenTrie
from videoreasoner.models.prompt_tree import ROOT, PromptTree, Trunk

Pick = Callable[[Tensor, Sequence[int]], Tensor]
"""(float32[n, V] logits, the n leaves they belong to) -> int64[n] chosen ids."""


def greedy(logits: Tensor, leaves: Sequence[int]) -> Tensor:
    return logits.argmax(dim=-1)


@dataclass(frozen=True)
class Leaf:
    """A completion to be decoded behind a node.

    Attributes:
        parent: the node it continues.
        grammar: what it may write; anything when None.
    """

    parent: int
    grammar: TokenTrie | None = None


class TreeDecoder:
    """A prompt tree whose trunk and nodes live in one key-value cache.

    Args:
        model: a transformers Qwen-VL model for conditional generation, in evaluation mode.
        trunk: text and clips at the root.
        features: float[N, D], one row for each visual token of the trunk, in order.
        end_ids: ids that end a completion.
        banned_ids: ids that are never written: visual and padding tokens.
    """

    @torch.inference_mode()
    def __init__(
        self,
        model: Any,
        trunk: Trunk,
        features: Tensor,
        end_ids: Sequence[int],
        banned_ids: Sequence[int],
    ) -> None:
        self.model = model
        self.device = model.get_input_embeddings().weight.device
        self.tree = PromptTree(trunk)
        self.end_ids = frozenset(end_ids)
        self.banned = torch.tensor(sorted(banned_ids), device=self.device, dtype=torch.long)
        self.cache = DynamicCache(config=model.config.get_text_config())
        positions, self._following = trunk.positions
        self._owner = torch.full((len(trunk),), ROOT, device=self.device)
        # Logits behind the last token of the trunk and of every node that has been fed whole.
        self._after: dict[int, Tensor] = {}
        embeddings = model.get_input_embeddings()(trunk.input_ids.to(self.device))
        embeddings[trunk.visual.to(self.device)] = features.to(embeddings.dtype)
        # Without a mask the stock model takes its fastest causal kernel.
        output = model(
            inputs_embeds=embeddings[None],
            position_ids=positions[:, None].to(self.device),
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self._after[ROOT] = output.logits[0, -1].float()

    @property
    def tokens_cached(self) -> int:
        return len(self._owner)

    def next_position(self, node: int) -> int:
        return self._following + sum(len(self.tree.tokens[n]) for n in self.tree.lineage(node))

    def add(self, nodes: Sequence[tuple[Sequence[int], int]]) -> list[int]:
        """Append nodes (token ids, parent) and feed them as one row; a parent may be an earlier one of them.

        Returns their numbers.
        """
        numbers = [self.tree.add(tokens, parent) for tokens, parent in nodes]
        logits = self._feed([(n, 0) for n in numbers])
        ends = torch.tensor([len(self.tree.tokens[n]) for n in numbers]).cumsum(0) - 1
        for number, end in zip(numbers, ends.tolist(), strict=True):
            self._after[number] = logits[end]
        return numbers

    def generate(self, leaves: Sequence[Leaf], max_new_tokens: int, pick: Pick = greedy) -> list[list[int]]:
        """Decode all leaves together. Each result ends with an end token, or is `max_new_tokens` long.

        A leaf becomes a node of the tree, so that its tokens stay in the cache.
        """
        written: list[list[int]] = [[] for _ in leaves]
        numbers: list[int | None] = [None] * len(leaves)
        live = list(range(len(leaves)))
        logits = torch.stack([self._after[leaf.parent] for leaf in leaves])
        while live:
            allowed = self._restrict(logits, [leaves[i] for i in live], [written[i] for i in live])
            chosen = pick(allowed, live).tolist()
            for i, token in zip(live, chosen, strict=True):
                written[i].append(token)
            live = [i for i in live if written[i][-1] not in self.end_ids and len(written[i]) < max_new_tokens]
            if not live:
                break
            fed: list[tuple[int, int]] = []
            for i in live:
                number = numbers[i]
                if number is None:
                    number = numbers[i] = self.tree.add(written[i], leaves[i].parent)
                else:
                    self.tree.tokens[number] = tuple(written[i])
                fed.append((number, len(written[i]) - 1))
            logits = self._feed(fed)
        return written

    def score(self, continuations: Sequence[Sequence[int]], parent: int) -> list[Tensor]:
        """Log-probability of every token of each continuation behind a node: float32[n] each.

        The cache and the tree are left as they were.
        """
        nodes, cached = len(self.tree.tokens), self.tokens_cached
        numbers = [self.tree.add(tokens, parent) for tokens in continuations]
        logits = self._feed([(n, 0) for n in numbers])
        results, offset = [], 0
        for tokens in continuations:
            count = len(tokens)
            predicted = torch.cat([self._after[parent][None], logits[offset : offset + count - 1]])
            ids = torch.tensor(tokens, device=self.device)
            results.append(predicted.log_softmax(-1).gather(1, ids[:, None])[:, 0])
            offset += count
        self._crop(nodes, cached)
        return results

    def forget(self) -> None:
        """Drop every node; the trunk stays."""
        self._crop(0, len(self.tree.trunk))

    def _crop(self, nodes: int, cached: int) -> None:
        del self.tree.tokens[nodes:], self.tree.parents[nodes:]
        self._after = {n: logits for n, logits in self._after.items() if n < nodes}
        surplus = self.tokens_cached - cached
        self._owner = self._owner[:cached]
        # By the number to remove, since transformers gives up the other way; and a 0 means "all" to some versions.
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
    def _feed(self, fed: Sequence[tuple[int, int]]) -> Tensor:
        """Feed each node's tokens from a given index on, as one row. Returns float32[n, V]."""
        ids: list[int] = []
        positions: list[int] = []
        owners: list[int] = []
        for number, first in fed:
            tokens = self.tree.tokens[number][first:]
            start = self.next_position(self.tree.parents[number]) + first
            ids += tokens
            positions += range(start, start + len(tokens))
            owners += [number] * len(tokens)
        owner = torch.tensor(owners, device=self.device)
        before = self.tokens_cached
        self._owner = torch.cat([self._owner, owner])
        mask = self.tree.related().to(self.device)[owner + 1][:, self._owner + 1]
        mask[:, before:] &= torch.ones(len(ids), len(ids), dtype=torch.bool, device=self.device).tril()
        output = self.model(
            input_ids=torch.tensor([ids], device=self.device),
            position_ids=torch.tensor(positions, device=self.device).expand(3, 1, -1),
            attention_mask=mask[None, None],
            past_key_values=self.cache,
            use_cache=True,
        )
        return output.logits[0].float()
