"""The prompt tree: one trunk, many continuations, laid out as one packed row.

    trunk     system text and clip            thousands of tokens, processed once
    branch    question, or a task prefix      a few dozen tokens
    leaf      one completion                  a few tokens to some hundreds

A token attends to its ancestors and to what precedes it in its own node; its M-RoPE position
continues from its parent's. transformers models take both as `attention_mask` and `position_ids`
(with `attention.py`, which keeps the trunk on causal kernels), so the packed row equals separate,
repeated rows up to float rounding, gradients included.

Prior art on shared prefixes: PrefixGrouper (arXiv 2506.05433), verl PR #4368, Unsloth PR #6871,
Long-RL (arXiv 2507.07966). Note: the first token of a node is predicted by the last token of
its parent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from videoreasoner.models.positions import ClipTokens, trunk_positions
from videoreasoner.tasks import Task

ROOT = -1

Node = tuple[Sequence[int], int]
"""Token ids of a node, and the number of its parent."""


@dataclass(frozen=True)
class Trunk:
    """Text and clips at the root of a tree.

    Attributes:
        parts: token ids, or the place of a clip.
        video_token_id: the id that stands for every visual token.
    """

    parts: tuple[tuple[int, ...] | ClipTokens, ...]
    video_token_id: int

    @cached_property
    def input_ids(self) -> Tensor:
        """int64[P]."""
        ids: list[int] = []
        for part in self.parts:
            if isinstance(part, ClipTokens):
                ids += [self.video_token_id] * len(part)
            else:
                ids += part
        return torch.tensor(ids, dtype=torch.long)

    @cached_property
    def visual(self) -> Tensor:
        """bool[P]: where a visual feature stands. It follows from the layout and not from the token ids."""
        return torch.cat([torch.full((len(part),), isinstance(part, ClipTokens)) for part in self.parts])

    @cached_property
    def positions(self) -> tuple[Tensor, int]:
        """int64[3, P] and the next position."""
        return trunk_positions(self.parts)

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)


@dataclass(frozen=True, eq=False)
class Prompt:
    """What stands in front of completions: a clip, a question about it, and a prefix for each task.

    Attributes:
        trunk: system text and clip.
        question: token ids of the rest of the user's turn and the header of the reply.
        prefixes: token ids of the prefix of each task. In the cold start there are none: the model learns to write
            the prefix, so it is a part of the completion.
    """

    trunk: Trunk
    question: tuple[int, ...]
    prefixes: Mapping[Task, tuple[int, ...]]

    def __len__(self) -> int:
        return len(self.trunk) + len(self.question) + sum(map(len, self.prefixes.values()))

    def nodes(self, tasks: Iterable[Task]) -> tuple[list[Node], dict[Task, int]]:
        """The nodes behind the trunk for some tasks: the question, then the prefixes.

        Returns:
            The nodes in the order in which they are added, and for each task the node that its completions continue.
        """
        return prompt_nodes(self.question, {task: self.prefixes.get(task, ()) for task in tasks})


def prompt_nodes(question: Sequence[int], prefixes: Mapping[Task, Sequence[int]]) -> tuple[list[Node], dict[Task, int]]:
    """The layout of a question and its task prefixes as the first nodes of a tree. See `Prompt.nodes`."""
    nodes: list[Node] = [(question, ROOT)]
    parents: dict[Task, int] = {}
    for task, prefix in prefixes.items():
        parents[task] = len(nodes) if prefix else 0
        if prefix:
            nodes.append((prefix, 0))
    return nodes, parents


@dataclass
class PromptTree:
    """A trunk and the nodes that continue it, numbered by `add`; `ROOT` is the trunk."""

    trunk: Trunk
    tokens: list[tuple[int, ...]] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)

    def add(self, tokens: Sequence[int], parent: int = ROOT) -> int:
        """Append a node and return its number.

        Raises:
            ValueError: the node is empty (then nothing would predict its children) or its parent is
                unknown.
        """
        if not tokens:
            raise ValueError("a node of a prompt tree needs at least one token")
        if not ROOT <= parent < len(self.tokens):
            raise ValueError(f"node {parent} is not in the tree")
        self.tokens.append(tuple(tokens))
        self.parents.append(parent)
        return len(self.tokens) - 1

    def add_prompt(self, prompt: Prompt, tasks: Iterable[Task]) -> dict[Task, int]:
        """Append the question and the prefixes of some tasks; return the node that each task's completions continue."""
        nodes, parents = prompt.nodes(tasks)
        for tokens, parent in nodes:
            self.add(tokens, parent)
        return parents

    def lineage(self, node: int) -> list[int]:
        """The node and its ancestors below the trunk, nearest first."""
        line = []
        while node != ROOT:
            line.append(node)
            node = self.parents[node]
        return line

    def related(self) -> Tensor:
        """bool[N + 1, N + 1]: whether a node (row) sees another (column), itself included.

        Row and column 0 stand for the trunk, so that a node's number plus one, `ROOT` too, indexes them.
        """
        related = torch.eye(len(self.tokens) + 1, dtype=torch.bool)
        # A parent's row is complete before that of its children.
        for node, parent in enumerate(self.parents):
            related[node + 1] |= related[parent + 1]
        return related

    def next_position(self, node: int) -> int:
        """The position that follows a node."""
        return self.trunk.positions[1] + sum(len(self.tokens[n]) for n in self.lineage(node))

    def row(self, node: int) -> tuple[Tensor, Tensor]:
        """The same as a separate row with its trunk: int64[L] ids and int64[3, L] positions."""
        below = [t for n in reversed(self.lineage(node)) for t in self.tokens[n]]
        positions, following = self.trunk.positions
        ids = torch.cat([self.trunk.input_ids, torch.tensor(below, dtype=torch.long)])
        text = torch.arange(following, following + len(below)).expand(3, -1)
        return ids, torch.cat([positions, text], dim=1)

    def pack(self) -> PackedTree:
        """Lay the tree out as one row: the trunk, then the nodes in the order they were added."""
        trunk_positions_, following = self.trunk.positions
        ids, positions = [self.trunk.input_ids], [trunk_positions_]
        owner = [torch.full((len(self.trunk),), ROOT)]
        starts: list[int] = []
        next_position: list[int] = []
        offset = len(self.trunk)
        for node, (tokens, parent) in enumerate(zip(self.tokens, self.parents, strict=True)):
            count = len(tokens)
            first = following if parent == ROOT else next_position[parent]
            ids.append(torch.tensor(tokens, dtype=torch.long))
            positions.append(torch.arange(first, first + count).expand(3, -1))
            owner.append(torch.full((count,), node))
            starts.append(offset)
            next_position.append(first + count)
            offset += count
        return PackedTree(
            tree=self,
            input_ids=torch.cat(ids),
            position_ids=torch.cat(positions, dim=1),
            owner=torch.cat(owner),
            starts=starts,
            next_position=next_position,
        )


@dataclass(frozen=True, eq=False)
class PackedTree:
    """One row that holds a whole tree.

    Attributes:
        input_ids: int64[L].
        position_ids: int64[3, L].
        owner: int64[L], the node of each token, `ROOT` for the trunk.
        starts: first index of each node in the row.
        next_position: the position that follows each node.
    """

    tree: PromptTree
    input_ids: Tensor
    position_ids: Tensor
    owner: Tensor
    starts: list[int]
    next_position: list[int]

    def __len__(self) -> int:
        return len(self.input_ids)

    def end(self, node: int) -> int:
        """Index of the node's last token, or of the trunk's for `ROOT`."""
        if node == ROOT:
            return len(self.tree.trunk) - 1
        return self.starts[node] + len(self.tree.tokens[node]) - 1

    def predictors(self, node: int) -> Tensor:
        """int64[n]: whose logits predict each token of the node; the first is its parent's last.

        Raises:
            ValueError: the node is the trunk, whose first token nothing predicts.
        """
        if node == ROOT:
            raise ValueError("nothing predicts the first token of the trunk")
        start = self.starts[node]
        own = torch.arange(start, start + len(self.tree.tokens[node]) - 1)
        return torch.cat([torch.tensor([self.end(self.tree.parents[node])]), own])

    def ancestor_mask(self, first: int = 0) -> Tensor:
        """bool[L - first, L]: True where the token from `first` on may attend to the column's."""
        group = self.owner + 1
        before = torch.ones(len(self) - first, len(self), dtype=torch.bool).tril(first)
        return self.tree.related()[group[first:]][:, group] & before


def collate(trees: Sequence[PackedTree], pad_token_id: int) -> dict[str, Tensor]:
    """Several packed rows as one padded batch for a transformers model with our attention (`attention.py`).

    Returns:
        input_ids int64[B, L], position_ids int64[3, B, L], attention_mask bool[B, 1, N, L] of the last N tokens of
        each row (those before are trunk in every row, and causal), mm_token_type_ids int64[B, L] (2 marks visual
        tokens).
    """
    length = max(len(tree) for tree in trees)
    size = len(trees)
    # Two rows at least: stock attention would spread a single one over all queries instead of refusing it.
    causal = max(0, min(*(len(tree.tree.trunk) for tree in trees), length - 2))
    input_ids = torch.full((size, length), pad_token_id)
    position_ids = torch.zeros(3, size, length, dtype=torch.long)
    types = torch.zeros(size, length, dtype=torch.long)
    # A padding token sees itself: a row of the mask without any True would turn into NaN.
    mask = torch.zeros(size, length - causal, length, dtype=torch.bool)
    mask.diagonal(causal, dim1=1, dim2=2).fill_(True)
    for i, tree in enumerate(trees):
        count = len(tree)
        input_ids[i, :count] = tree.input_ids
        position_ids[:, i, :count] = tree.position_ids
        types[i, : len(tree.tree.trunk)] = tree.tree.trunk.visual.long() * 2
        mask[i, : count - causal, :count] = tree.ancestor_mask(causal)
    return {
        "input_ids": input_ids,
        "position_ids": position_ids,
        "attention_mask": mask[:, None],
        "mm_token_type_ids": types,
    }
