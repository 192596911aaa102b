"""Multi-task GRPO on the prompt tree: reinforce locating and answering (paper, section "Multi-task GRPO").

One step, for each (video, question) of the batch:

    rollout     one vision pass, one trunk; behind each task's prefix a group of G sampled completions
    rewards     each completion is scored by what can be checked; rewards of other tasks do not concern it
    advantages  (reward - mean) / (std + 1e-4) within the group; groups never mix tasks
    reference   log-probabilities of the same tree under the model that training started from
    update      one forward and backward pass through the same tree, all completions as leaves:

        maximise  mean over completions, mean over tokens of
                  min(ratio * A, clip(ratio, 1 - epsilon, 1 + epsilon) * A) - beta * KL

The task prefix is given, not written, so it carries no loss. Formulas and their sources: objective.py. Prior art on
shared prompts in updates: PrefixGrouper (arXiv 2506.05433), verl PR #4368, Long-RL (arXiv 2507.07966).

Deviations from the paper and its code, all on purpose:
- A query is sampled for all its tasks in one step, on one tree. In the published data each task is a row of its own.
- A group whose rewards are all equal is left out of reference and update: it has no advantage. Its divergence term goes
  with it, and it still counts in the mean, so that the other groups weigh what they weighed.
- The policy's distribution leaves out ids that are never sampled (visual placeholders, padding).
- The mean is over the completions of the whole step, on all devices and micro-batches, not a mean of means.
- Ratios of further updates on a batch (`num_iterations`) are against the log-probabilities of its first update, so the
  first ratio is exactly 1, as published; how far the rollout's own differ from them is logged as `rollout_mismatch`.
- Nothing falls back: a video that cannot be decoded, for the model or for a reward, is left out and counted, and a
  reward that fails otherwise stops the run.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from accelerate.utils import DistributedType, gather_object
from torch import Tensor

from videoreasoner.errors import VideoError
from videoreasoner.tasks import is_readable
from videoreasoner.training.data.queries import Query
from videoreasoner.training.data.sources import Skipped
from videoreasoner.training.grpo.alarms import Alarms
from videoreasoner.training.grpo.explored import Explored
from videoreasoner.training.grpo.leaf_batch import LeafBatch, clip_inputs, completion_log_probs, leaf_batch
from videoreasoner.training.grpo.losses import (
    clipped_objective,
    group_advantages,
    is_clipped,
    k3,
    same_rewards,
    token_weights,
)
from videoreasoner.training.grpo.recipe import GrpoRecipe
from videoreasoner.training.grpo.recorder import best_and_worst, show
from videoreasoner.training.grpo.rewards import Rewards
from videoreasoner.training.grpo.rollouts import Rollout, Sampling, encode_clip, sample
from videoreasoner.training.runtime.trainer import Run, TreeTrainer


@dataclass(eq=False)
class Experience:
    """What one micro-batch learns from. Tensors have one entry a token of its completions: float32[N].

    Attributes:
        leaves, clips: arguments of the forward pass.
        advantages, weights: of the completion that a token belongs to.
        sampled: log-probabilities as the rollout saw them.
        reference: under the reference; None without one.
        old: under the policy at the first update on this batch; None before it.
    """

    leaves: LeafBatch
    clips: dict[str, Any]
    advantages: Tensor
    weights: Tensor
    sampled: Tensor
    reference: Tensor | None
    old: Tensor | None = None


class GrpoTrainer(TreeTrainer):
    """See the module.

    Args:
        recipe: the run's.
        rewards: by which completions are judged.
        reference: the frozen reference model; None with adapters (then it is the model without them) or without beta.
        filler: a query that no row stands behind. With several processes, one without anything to learn takes part in
            the step with it, at weight 0. Where none of them has, weights stay as they are.
    """

    def __init__(
        self, run: Run, recipe: GrpoRecipe, rewards: Rewards, reference: Any, filler: Query, callbacks: Any = None
    ) -> None:
        super().__init__(run, callbacks)
        self.recipe = recipe
        self.rewards, self.reference, self.filler = rewards, reference, filler
        self.sampling = Sampling(
            recipe.num_generations, recipe.temperature, recipe.top_p, recipe.max_completion_length, recipe.seed
        )
        self.alarms = Alarms(recipe.alarm_steps, goes_on=run.resume_from is not None)
        self.vision_learns = any(p.requires_grad for p in self._policy().model.visual.parameters())
        self._batches: list[dict[str, Any]] = []
        self._total = torch.ones(())

    def count(self, batch: dict[str, Any]) -> float:
        """Completions of a batch."""
        return float(sum(len(query.prefixes) for query in batch["queries"]) * self.recipe.num_generations)

    def get_batch_samples(
        self, epoch_iterator: Iterator[dict[str, Any]], num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Any]], Tensor]:
        """The micro-batches of one step, each with its experience; the same ones for `num_iterations` steps."""
        if self.state.global_step % self.recipe.num_iterations == 0:
            batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
            queries = [query for batch in batches for query in batch["queries"]]
            # The update of a single micro-batch comes next: its vision tower can go on from the rollout's graph.
            shares = self.recipe.shared_prompt and self.recipe.num_iterations == len(batches) == 1
            keeps_graph = self.vision_learns and shares
            size = self.recipe.rollout_batch_size
            groups = [queries[first : first + size] for first in range(0, len(queries), size)]
            with self._sampling_mode():
                outcomes = [outcome for group in groups for outcome in self.explore(group, keeps_graph)]
            explored = [outcome for outcome in outcomes if isinstance(outcome, Explored)]
            failed = [outcome for outcome in outcomes if isinstance(outcome, Skipped)]
            own = [
                sum(len(e.rollouts) for e in explored),
                sum(int(e.lengths[e.counted].sum()) for e in explored),
                sum(int(e.learned.sum()) for e in explored),
                len(failed),
            ]
            in_step = self.accelerator.reduce(torch.tensor(own, dtype=torch.float32, device=device), reduction="sum")
            completions, tokens, learned, failures = map(int, in_step.tolist())
            if failures:
                self.notes.sums["rows"] -= len(failed)
                self._set_aside(failed)
            self._total = in_step[0]
            rest = iter(outcomes)
            of_batch = [list(itertools.islice(rest, len(batch["queries"]))) for batch in batches]
            self._batches = [
                {**batch, "experience": self.experience(mine, completions, tokens) if learned else None}
                for batch, mine in zip(batches, of_batch, strict=True)
            ]
            self._report(explored)
        return self._batches, self._total

    def explore(self, queries: Sequence[Query], keeps_graph: bool) -> list[Explored | Skipped]:
        """Sample the completions of some queries together, score them, and compare them within each task.

        Args:
            keeps_graph: whether a vision tower that learns does so from the features of the rollout.

        Returns:
            For each query what came of it, or why a reward could not read its video.
        """
        checkpoint, policy = self.run.checkpoint, self._policy()
        ends, banned, step = checkpoint.end_ids, checkpoint.banned_ids, self.state.global_step
        with self._timed("rollout"):
            # In the mode of the update, so that it decides about activation checkpoints.
            policy.model.visual.train(keeps_graph)
            with torch.set_grad_enabled(keeps_graph):
                features = [encode_clip(policy, query.patches) for query in queries]
            policy.model.visual.eval()
            rollouts = sample(policy, queries, features, self.sampling, step, ends, banned, self.recipe.shared_prompt)
        with self._timed("rewards"):
            kept = features if keeps_graph or not self.vision_learns else [None] * len(queries)
            return [self._judged(*one) for one in zip(queries, kept, rollouts, strict=True)]

    def _judged(self, query: Query, features: Tensor | None, rollouts: list[Rollout]) -> Explored | Skipped:
        recipe, ends, encoder = self.recipe, self.run.checkpoint.end_ids, self.run.checkpoint.encoder
        tasks = [rollout.task for rollout in rollouts]
        texts = [encoder.decode([t for t in rollout.tokens if t not in ends]) for rollout in rollouts]
        asked = encoder.prompts.user_text(query.row.question, query.row.options or ())
        prompts = [f"{asked}\n{encoder.prompts.prefixes[task]}" for task in tasks]
        ids = [rollout.tokens for rollout in rollouts]
        try:
            scores = self.rewards.score(query.row, query.duration_s, query.video, tasks, prompts, texts, ids)
        except VideoError as error:
            return Skipped(query.source, query.row.id, str(error))
        totals = torch.tensor(scores.totals, dtype=torch.float64)
        groups = torch.tensor([list(query.prefixes).index(task) for task in tasks])
        finished = torch.tensor([rollout.finished for rollout in rollouts])
        counted = finished | (not recipe.mask_truncated_completions)
        advantages = group_advantages(totals, groups, recipe.scale_rewards == "group")
        learned = counted & ~same_rewards(totals, groups)
        return Explored(query, features, rollouts, texts, scores, advantages, learned, counted)

    def experience(self, outcomes: Sequence[Explored | Skipped], completions: int, tokens: int) -> Experience | None:
        """What a micro-batch learns from, the reference's log-probabilities included; None when that is nothing.

        Args:
            completions, tokens: of the whole step, in which some process learns something.
        """
        recipe = self.recipe
        useful = [e for e in outcomes if isinstance(e, Explored) and e.learned.any()]
        if not useful:
            return self._nothing() if self.accelerator.distributed_type is not DistributedType.NO else None
        kept = [[r for r, wanted in zip(e.rollouts, e.learned.tolist(), strict=True) if wanted] for e in useful]
        queries = [e.query for e in useful]
        leaves = leaf_batch(queries, kept, self._pad_id(), recipe.shared_prompt)
        weights = [
            token_weights(e.lengths, e.counted, recipe.loss_type, recipe.max_completion_length, completions, tokens)[
                e.learned
            ]
            for e in useful
        ]
        features = [e.features for e in useful if e.features is not None] or None
        return Experience(
            leaves,
            clip_inputs(queries, leaves.clips, features),
            torch.cat([e.advantages[e.learned] for e in useful])[leaves.completion],
            torch.cat(weights)[leaves.completion],
            torch.cat([rollout.log_probs for group in kept for rollout in group]),
            self._reference_log_probs(queries, leaves, features),
        )

    def batch_loss(self, model: Any, batch: dict[str, Any], total: Tensor) -> Tensor:
        """The micro-batch's share of the objective, negated. `total` is in the weights already."""
        e, recipe = batch["experience"], self.recipe
        high = recipe.epsilon if recipe.epsilon_high is None else recipe.epsilon_high
        log_probs = self._log_probs(model, e.leaves, e.clips)
        now = log_probs.detach()
        device = log_probs.device
        advantages, weights = e.advantages.to(device), e.weights.to(device)
        # The filler has no weight, and no part in the figures.
        real = weights > 0
        if e.old is None:
            e.old = now
            self._note("rollout_mismatch", (torch.exp(now - e.sampled.to(device)) - 1).abs()[real])
        objective = clipped_objective(log_probs, e.old, advantages, recipe.epsilon, high)
        self._note("clip_ratio", is_clipped(now, e.old, advantages, recipe.epsilon, high)[real])
        if e.reference is not None:
            divergence = k3(log_probs, e.reference)
            self._note("kl", divergence.detach()[real])
            objective = objective - recipe.beta * divergence
        return -(objective * weights).sum()

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """As transformers', but a micro-batch with nothing to learn costs nothing."""
        if inputs["experience"] is None:
            return torch.zeros((), device=self.args.device)
        return super().training_step(model, inputs, num_items_in_batch)

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        # Where nothing was learned, DeepSpeed would tell that of the step before.
        learned = any(batch["experience"] is not None for batch in self._batches)
        return super()._get_grad_norm(model, grad_norm) if learned else 0.0

    def _reference_log_probs(
        self, queries: Sequence[Query], leaves: LeafBatch, features: Sequence[Tensor] | None
    ) -> Tensor | None:
        if self.recipe.beta == 0:
            return None
        # The policy's features are the reference's too where the vision tower is the same one, and stays as it is.
        is_same = self.recipe.ref_model is None and not self.vision_learns
        clips = clip_inputs(queries, leaves.clips, features if is_same else None)
        with self._timed("reference"), torch.no_grad(), self.accelerator.autocast():
            if self.reference is not None:
                return self._log_probs(self.reference, leaves, clips)
            with self._sampling_mode(), self._unwrapped().disable_adapter():
                return self._log_probs(self._policy(), leaves, clips)

    def _log_probs(self, model: Any, leaves: LeafBatch, clips: dict[str, Any]) -> Tensor:
        plain = self.reference if model is self.reference else self._policy()
        banned = self.run.checkpoint.banned_ids
        return completion_log_probs(model, plain, leaves, clips, self.recipe.temperature, banned)

    def _nothing(self) -> Experience:
        task, end = next(iter(self.filler.prefixes)), self.run.checkpoint.encoder.end_id
        leaves = leaf_batch([self.filler], [[Rollout(task, 0, (end,), torch.zeros(1), True)]], self._pad_id())
        zero = torch.zeros(1)
        reference = zero.to(self.args.device) if self.recipe.beta else None
        return Experience(leaves, clip_inputs([self.filler], leaves.clips, None), zero, zero, zero, reference)

    def _unwrapped(self) -> Any:
        return self.accelerator.unwrap_model(self.model)

    def _policy(self) -> Any:
        """The transformers model itself, with adapters inside where there are any."""
        model = self._unwrapped()
        return model.get_base_model() if self.recipe.lora else model

    def _pad_id(self) -> int:
        return int(self.run.checkpoint.encoder.tokenizer.pad_token_id)

    @contextlib.contextmanager
    def _sampling_mode(self) -> Iterator[None]:
        """No dropout and no activation checkpoints, in the precision of the update."""
        training = self.model.training
        self.model.eval()
        try:
            with torch.no_grad(), self.accelerator.autocast():
                yield
        finally:
            self.model.train(training)

    @contextlib.contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.notes.seconds[name] += time.perf_counter() - started

    def _note(self, name: str, values: Tensor | Sequence[float]) -> None:
        """Add values to a figure that is logged as their mean."""
        if not len(values):
            return
        self.notes.sums[name] += float(torch.as_tensor(values, dtype=torch.float32).sum())
        self.notes.sums[f"{name}/count"] += len(values)

    def _report(self, explored: Sequence[Explored]) -> None:
        """Note the figures of a step's rollouts, and keep the best and worst of them."""
        for e in explored:
            self._note("reward", e.scores.totals)
            self._note("completion_length", e.lengths)
            self._note("completion_truncated", [float(not rollout.finished) for rollout in e.rollouts])
            for name, values in e.scores.each.items():
                self._note(f"reward/{name}", [value for value in values if value is not None])
            asked = e.query.duration_s, e.query.row.options
            parsed = [is_readable(r.task, t, *asked) for r, t in zip(e.rollouts, e.texts, strict=True)]
            self._note("parse_rate", parsed)
            for task in e.query.prefixes:
                own = [i for i, rollout in enumerate(e.rollouts) if rollout.task is task]
                flat = len({e.scores.totals[i] for i in own}) == 1
                self._note(f"parse_rate/{task}", [parsed[i] for i in own])
                self._note(f"zero_variance_groups/{task}", [flat])
                self._note("zero_variance_groups", [flat])
        records = [record for e in explored for record in e.records()]
        count = self.recipe.recorded_rollouts
        step = self.state.global_step + 1
        # The next logged step may be a later one on the same rollouts.
        is_shown = -step % self.args.logging_steps < self.recipe.num_iterations
        if self.recipe.log_completions and self.args.should_save and is_shown:
            show(records, step, self.recipe.num_completions_to_print)
        gathered = gather_object(best_and_worst(records, count)) if count else []
        if count and self.args.should_save:
            lines = [{"step": step, **asdict(record)} for record in best_and_worst(gathered, count)]
            self.run.folder.append("rollouts.jsonl", *lines)

    def _figures(self) -> dict[str, float]:
        figures = super()._figures()
        if self.args.should_save:
            for message in self.alarms.update(self.state.global_step, figures):
                print(f"warning: {message}", file=sys.stderr)
        return figures
