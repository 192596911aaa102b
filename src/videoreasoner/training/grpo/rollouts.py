"""Rollouts: G completions a task, sampled on one prompt tree a query.

All tasks and all completions of a query share its clip, trunk and question in one key-value cache. They decode
together, and with those of other queries. Every leaf draws from a random stream of its own, which follows from (seed,
step, row, task, number): what a leaf writes depends neither on the other leaves nor on how queries are spread over
batches and processes.

The policy is the softmax, at the sampling temperature, over the ids that may be written: visual placeholders and
padding are outside of it, here and in the update. Log-probabilities are those before the nucleus (top_p) is cut out,
as in TRL.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from videoreasoner.models.prompt_tree import ROOT
from videoreasoner.models.tree_decoder import Forest, Leaf
from videoreasoner.tasks import Task
from videoreasoner.training.data.queries import Query
from videoreasoner.video.patches import Patches


@dataclass(frozen=True)
class Sampling:
    """How completions are sampled.

    Attributes:
        generations: G, completions for each task of a query.
        temperature: > 0; logits are divided by it.
        top_p: in (0, 1]; the smallest set of tokens that holds this share of the probability is drawn from.
        max_new_tokens: the completion limit.
        seed: of the random streams.
    """

    generations: int
    temperature: float
    top_p: float
    max_new_tokens: int
    seed: int


@dataclass(frozen=True, eq=False)
class Rollout:
    """One sampled completion.

    Attributes:
        task: what it was asked.
        number: from 0 to G - 1 within its group.
        tokens: what was written, the end token included.
        log_probs: float32[n], log-probability of each token under the policy that wrote it.
        finished: False when it was cut off at the limit.
    """

    task: Task
    number: int
    tokens: tuple[int, ...]
    log_probs: Tensor
    finished: bool


def encode_clip(model: Any, patches: Patches) -> Tensor:
    """float[V, D]: the features of a clip's visual tokens under a model, with a graph unless that is switched off."""
    weight = next(model.model.visual.parameters())
    encoded = model.model.get_video_features(
        patches.pixel_values.to(weight.device, weight.dtype),
        torch.tensor([patches.grid], device=weight.device),
        return_dict=True,
    ).pooler_output
    return torch.cat(list(encoded))


def sample(
    model: Any,
    queries: Sequence[Query],
    features: Sequence[Tensor],
    sampling: Sampling,
    step: int,
    end_ids: Sequence[int],
    banned_ids: Sequence[int],
    shared_prompt: bool = True,
) -> list[list[Rollout]]:
    """Sample the completions of each query: task after task, number after number. All are decoded together.

    Args:
        model: the policy, in evaluation mode.
        features: what `encode_clip` gave for each query under the same weights.
        step: of the training run; names the random streams.
        end_ids: ids that end a completion.
        banned_ids: ids that are never written.
        shared_prompt: False decodes every completion behind a prompt of its own: the yardstick.
    """
    rollouts: list[list[Rollout]] = [[] for _ in queries]
    wanted = [
        (which, task, number)
        for which, query in enumerate(queries)
        for task in query.prefixes
        for number in range(sampling.generations)
    ]
    for group in [wanted] if shared_prompt else [[one] for one in wanted]:
        # A tree's question is its node 0, and the prefixes follow.
        nodes: dict[int, list[tuple[Sequence[int], int]]] = {}
        branches: dict[tuple[int, Task], int] = {}
        for which, task, _ in group:
            row = nodes.setdefault(which, [(queries[which].question, ROOT)])
            if (which, task) not in branches:
                branches[which, task] = len(row)
                row.append((queries[which].prefixes[task], 0))
        forest = Forest(model, [queries[w].trunk for w in nodes], [features[w] for w in nodes], end_ids, banned_ids)
        forest.add(list(nodes.values()))
        trees = {which: tree for tree, which in enumerate(nodes)}
        leaves = [Leaf(branches[which, task], tree=trees[which]) for which, task, _ in group]
        streams = [stream(sampling.seed, step, queries[w].row.id, task, number) for w, task, number in group]
        pick = LeafSampler(streams, sampling.temperature, sampling.top_p)
        written = forest.generate(leaves, sampling.max_new_tokens, pick)
        for (which, task, number), tokens, log_probs in zip(group, written, pick.log_probs, strict=True):
            finished = tokens[-1] in forest.end_ids
            rollouts[which].append(Rollout(task, number, tuple(tokens), torch.tensor(log_probs), finished))
    return rollouts


def stream(seed: int, step: int, row_id: str, task: Task, number: int) -> torch.Generator:
    """The random stream of one leaf."""
    name = repr((seed, step, row_id, str(task), number)).encode(errors="backslashreplace")
    digest = hashlib.blake2b(name, digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)


class LeafSampler:
    """Nucleus sampling, one random stream a leaf. A `Pick` of the decoder.

    Attributes:
        log_probs: for each leaf, the log-probability of each token that was picked.
    """

    def __init__(self, streams: Sequence[torch.Generator], temperature: float, top_p: float) -> None:
        self.streams = streams
        self.temperature = temperature
        self.top_p = top_p
        self.log_probs: list[list[float]] = [[] for _ in streams]

    def __call__(self, logits: Tensor, leaves: Sequence[int]) -> Tensor:
        """float32[n, V] logits of n leaves -> int64[n] ids."""
        log_probs = (logits / self.temperature).log_softmax(-1)
        cumulative = nucleus(log_probs.double().exp(), self.top_p).cumsum(-1)
        draws = [torch.rand(1, generator=self.streams[leaf], dtype=torch.float64) for leaf in leaves]
        # In the order of ids and not of probability: two tokens that are nearly as likely cannot change places.
        total = cumulative[:, -1:]
        wanted = torch.stack(draws).to(total.device) * total
        # Rounding may not reach the total: behind it stand ids of no probability.
        wanted = torch.minimum(wanted, torch.nextafter(total, torch.zeros_like(total)))
        chosen = torch.searchsorted(cumulative, wanted, right=True)
        for leaf, value in zip(leaves, log_probs.gather(1, chosen)[:, 0].tolist(), strict=True):
            self.log_probs[leaf].append(value)
        return chosen[:, 0]


def nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """float[n, V] with zeros outside the smallest set of tokens that holds at least `top_p` of each row."""
    if top_p >= 1.0:
        return probabilities
    ordered, ids = probabilities.sort(dim=-1, descending=True)
    # The likeliest token is always in: nothing stands before it.
    outside = ordered.cumsum(-1) - ordered >= top_p
    return probabilities.masked_fill(torch.zeros_like(outside).scatter(1, ids, outside), 0.0)
