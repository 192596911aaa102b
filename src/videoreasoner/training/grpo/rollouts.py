"""Rollouts: G completions for each task of each example, sampled on one prompt tree an example.

All tasks and completions of an example share its clip and question in one key-value cache. They decode together, and
with those of other examples. Every completion draws from a random stream of its own, which follows from (seed, step,
row, task, number). So a completion depends neither on the others nor on how examples are spread over batches and
processes.

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

from videoreasoner.models.prompt_tree import Prompt
from videoreasoner.models.tree_decoder import Leaf, TreeDecoder
from videoreasoner.tasks import Task
from videoreasoner.training.data.examples import Example


@dataclass(frozen=True)
class Sampling:
    """How completions are sampled.

    Attributes:
        generations: G, completions for each task of an example.
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


def sample(
    model: Any,
    examples: Sequence[Example],
    features: Sequence[Tensor],
    sampling: Sampling,
    step: int,
    end_ids: Sequence[int],
    banned_ids: Sequence[int],
    shared_prompt: bool = True,
) -> list[list[Rollout]]:
    """Sample the completions of each example: task after task, number after number. All are decoded together.

    Args:
        model: the policy, in evaluation mode.
        features: what `encode_clip` gave for each example under the same weights.
        step: of the training run; names the random streams.
        end_ids: ids that end a completion.
        banned_ids: ids that are never written.
        shared_prompt: False decodes every completion behind a prompt of its own, for comparison.
    """
    wanted = [
        (which, task, number)
        for which, example in enumerate(examples)
        for task in example.prompt.prefixes
        for number in range(sampling.generations)
    ]
    rollouts: list[list[Rollout]] = [[] for _ in examples]
    for group in [wanted] if shared_prompt else [[one] for one in wanted]:
        asked = list(dict.fromkeys(which for which, _, _ in group))
        prompts: list[Prompt] = [examples[which].prompt for which in asked]
        decoder = TreeDecoder(model, [p.trunk for p in prompts], [features[w] for w in asked], end_ids, banned_ids)
        layouts = [
            prompt.nodes(dict.fromkeys(task for which, task, _ in group if which == own))
            for prompt, own in zip(prompts, asked, strict=True)
        ]
        decoder.add([nodes for nodes, _ in layouts])
        place = {which: tree for tree, which in enumerate(asked)}
        leaves = [Leaf(layouts[place[which]][1][task], tree=place[which]) for which, task, _ in group]
        streams = [stream(sampling.seed, step, examples[w].row.id, task, number) for w, task, number in group]
        pick = NucleusSampler(streams, sampling.temperature, sampling.top_p)
        written = decoder.generate(leaves, sampling.max_new_tokens, pick)
        for (which, task, number), tokens, log_probs in zip(group, written, pick.log_probs, strict=True):
            finished = tokens[-1] in decoder.end_ids
            rollouts[which].append(Rollout(task, number, tuple(tokens), torch.tensor(log_probs), finished))
    return rollouts


def stream(seed: int, step: int, row_id: str, task: Task, number: int) -> torch.Generator:
    """The random stream of one completion."""
    name = repr((seed, step, row_id, str(task), number)).encode(errors="backslashreplace")
    digest = hashlib.blake2b(name, digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)


class NucleusSampler:
    """Nucleus sampling with one random stream for each completion. A `Pick` of the decoder.

    Attributes:
        log_probs: for each completion, the log-probability of each token that was picked.
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
        # In the order of ids, not of probability, so that rounding cannot swap two tokens that are nearly as likely.
        total = cumulative[:, -1:]
        wanted = torch.stack(draws).to(total.device) * total
        # A draw must stay below the total: the ids behind it have no probability.
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
    # The most likely token is always inside, since the sum before it is 0.
    outside = ordered.cumsum(-1) - ordered >= top_p
    return probabilities.masked_fill(torch.zeros_like(outside).scatter(1, ids, outside), 0.0)
