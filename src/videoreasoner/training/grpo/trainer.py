"""Multi-task GRPO on the prompt tree: reinforce locating and answering (paper, section "Multi-task GRPO").

`GrpoTrainer.step_losses` is one step from top to bottom: rollout, score, advantages, reference, loss. docs/grpo.md
explains it line by line. The formulas and their sources are in losses.py. Prior art on shared prompts in updates:
PrefixGrouper (arXiv 2506.05433), verl PR #4368, Long-RL (arXiv 2507.07966).

Deviations from the paper and its code:
- An example is sampled for all its tasks in one step, on one tree. In the published data each task is a row of its own.
- With `skip_flat_groups`, or without a divergence term, a group whose rewards are all equal is left out of reference
  and update, since it has no advantage. It still counts in the mean, so the other groups keep their weights. By default
  such a group keeps its divergence term, as published.
- The policy's distribution leaves out ids that are never sampled (visual placeholders, padding).
- The mean is over the completions of the whole step, on all devices and micro-batches, not a mean of means.
- Ratios of further updates on a batch (`num_iterations`) are against the log-probabilities of its first update, so the
  first ratio is exactly 1, as published. How far the rollout's own differ from them is logged as `rollout_mismatch`.
- There are no fallbacks. A video that cannot be decoded, for the model or for a reward, is left out and counted; a
  reward that fails otherwise stops the run.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from videoreasoner.errors import VideoError
from videoreasoner.models.gathering import SplitCopy
from videoreasoner.models.tree_batch import TreeBatch, encode_clip, token_log_probs, unwrapped
from videoreasoner.tasks import Task
from videoreasoner.training.data.dataset import ExampleBatch
from videoreasoner.training.data.examples import Example
from videoreasoner.training.data.sources import Skipped
from videoreasoner.training.grpo.losses import (
    clipped_objective,
    group_advantages,
    is_clipped,
    k3,
    same_rewards,
    token_weights,
)
from videoreasoner.training.grpo.recipe import GrpoRecipe
from videoreasoner.training.grpo.rewards import Rewards
from videoreasoner.training.grpo.rollout_log import RolloutLog, ZeroRewardAlarm
from videoreasoner.training.grpo.rollouts import Rollout, Sampling, sample
from videoreasoner.training.grpo.scored import ScoredRollouts
from videoreasoner.training.runtime.trainer import LossFunction, TrainingRun, TreeTrainer
from videoreasoner.utils.terminal import say


@dataclass(eq=False)
class Experience:
    """What one micro-batch learns from. The tensors have one entry for each token of its completions: float32[N].

    Attributes:
        batch, clips: arguments of the forward pass.
        advantages, weights: of the completion that a token belongs to. The weights contain the mean over the step.
        sampled: log-probabilities under the policy that wrote the completions.
        reference: log-probabilities under the reference; None without a divergence term.
        old: log-probabilities under the policy at the first update on this batch; None before it.
    """

    batch: TreeBatch
    clips: dict[str, Any]
    advantages: Tensor
    weights: Tensor
    sampled: Tensor
    reference: Tensor | None
    old: Tensor | None = None


class GrpoTrainer(TreeTrainer):
    """See the module.

    Args:
        rewards: they score the completions.
        reference: the frozen reference model; None with adapters (then it is the model without them) or without beta.
    """

    held_out_prefix = "held_out/"

    def __init__(self, run: TrainingRun, recipe: GrpoRecipe, rewards: Rewards, reference: Any) -> None:
        super().__init__(run)
        self.recipe, self.rewards, self.reference = recipe, rewards, reference
        if self.has_split_weights and reference is not None:
            self.reference = SplitCopy(reference, self.args.device, self.gathered_dtype)
        self.sampling = Sampling(
            recipe.num_generations, recipe.temperature, recipe.top_p, recipe.max_completion_length, recipe.seed
        )
        self.rollout_log = RolloutLog(recipe, run.folder, run.args)
        self.alarm = ZeroRewardAlarm(recipe.alarm_steps, is_resumed=run.resume.checkpoint is not None)
        self.vision_learns = any(p.requires_grad for p in unwrapped(self.model).model.visual.parameters())

    def step_losses(self, batches: Sequence[ExampleBatch]) -> list[LossFunction | None]:
        """One GRPO step: sample G completions for each task of each example, and learn from how they compare.

        For one example m = (video, question) with task prefix p, completions o_1 .. o_G with tokens o_it:

            maximise  J = mean over completions i, mean over tokens t of
                          min(ratio_it A_i, clip(ratio_it, 1 - epsilon, 1 + epsilon) A_i) - beta KL_it

            A_i       (r_i - mean(r)) / (std(r) + 1e-4) over the G completions of the same task
            ratio_it  pi(o_it | m, p, o_i<t) / pi_old(o_it | m, p, o_i<t); 1 at the first update on a batch
            KL_it     exp(d) - d - 1 with d = log pi_ref(o_it | ...) - log pi(o_it | ...)
        """
        recipe = self.recipe

        # Rollout: one pass over each video, and behind each task prefix a group of G sampled completions.
        examples = [example for batch in batches for example in batch.examples]
        keeps_graph = self._update_reuses_features(len(batches))
        rollouts, features = self.rollout(examples, keeps_graph)

        # Score: each completion by the rewards that concern its task.
        results = self.score(examples, rollouts, features)
        scored = [result for result in results if isinstance(result, ScoredRollouts)]
        self.set_aside_failed([result for result in results if isinstance(result, Skipped)])

        # Advantages: within the group of an example and a task. A group of equal rewards has none, and only its
        # divergence has a gradient.
        skips_flat_groups = recipe.skip_flat_groups or recipe.beta == 0
        for one in scored:
            one.advantages = group_advantages(one.totals, one.groups, recipe.scale_rewards == "group")
            one.is_counted = one.is_finished | (not recipe.mask_truncated_completions)
            one.is_learned = one.is_counted
            if skips_flat_groups:
                one.is_learned = one.is_counted & ~same_rewards(one.totals, one.groups)
        self.report(scored)
        completions, tokens, learned = map(
            int,
            self.sum_over_processes(
                sum(len(one.rollouts) for one in scored),
                sum(int(one.lengths[one.is_counted].sum()) for one in scored),
                sum(int(one.is_learned.sum()) for one in scored),
            ),
        )
        if not learned:
            return [None] * len(batches)

        # Reference: the same completions under the model that training started from. Loss: see `loss`.
        losses: list[LossFunction | None] = []
        rest = iter(results)
        with self.whole_reference() as reference:
            for batch in batches:
                rows = islice(rest, len(batch.examples))
                own = [one for one in rows if isinstance(one, ScoredRollouts) and one.is_learned.any()]
                experience = self.experience(own, completions, tokens, reference) if own else self.dummy_experience()
                losses.append(partial(self.loss, experience) if experience is not None else None)
        return losses

    def loss(self, experience: Experience, model: Any) -> Tensor:
        """-J for one micro-batch; see `step_losses`. The weights hold the mean over the completions of the step."""
        e, recipe = experience, self.recipe
        log_probs = self._log_probs(model, e.batch, e.clips, in_parts=not self.has_split_weights)
        advantages, weights = e.advantages.to(log_probs.device), e.weights.to(log_probs.device)
        old = log_probs.detach() if e.old is None else e.old
        epsilon_high = recipe.epsilon if recipe.epsilon_high is None else recipe.epsilon_high
        objective = clipped_objective(log_probs, old, advantages, recipe.epsilon, epsilon_high)
        divergence = None if e.reference is None else k3(log_probs, e.reference)
        if divergence is not None:
            objective = objective - recipe.beta * divergence

        # A dummy example has no weight, and no part in the metrics.
        now, is_real = log_probs.detach(), weights > 0
        if e.old is None:
            self.metrics.add("rollout_mismatch", (torch.exp(now - e.sampled.to(now.device)) - 1).abs()[is_real])
        self.metrics.add("clip_ratio", is_clipped(now, old, advantages, recipe.epsilon, epsilon_high)[is_real])
        if divergence is not None:
            self.metrics.add("kl", divergence.detach()[is_real])
        e.old = old
        return -(objective * weights).sum()

    def rollout(
        self, examples: Sequence[Example], keeps_graph: bool
    ) -> tuple[list[list[Rollout]], list[Tensor | None]]:
        """Sample the completions of each example, `rollout_batch_size` examples at a time.

        Args:
            keeps_graph: whether the features carry the graph of the vision tower, for the update.

        Returns:
            The completions of each example; and float[tokens, D], the features of its clip, where the update can use
            them. None where the vision tower learns and the update must encode the clip again.
        """
        checkpoint = self.run.checkpoint
        rollouts: list[list[Rollout]] = []
        kept: list[Tensor | None] = []
        with self.stopwatch.stage("rollout"), self._sampling_mode(), self.whole_model() as whole:
            policy = unwrapped(whole)
            for first in range(0, len(examples), self.recipe.rollout_batch_size):
                group = examples[first : first + self.recipe.rollout_batch_size]
                # The update continues from this graph, so activations are checkpointed as in the update.
                policy.model.visual.train(keeps_graph)
                with torch.set_grad_enabled(keeps_graph):
                    features = [encode_clip(policy, example.patches) for example in group]
                policy.model.visual.eval()
                rollouts += sample(
                    policy,
                    group,
                    features,
                    self.sampling,
                    self.state.global_step,
                    checkpoint.end_ids,
                    checkpoint.banned_ids,
                    self.recipe.shared_prompt,
                )
                kept += features if keeps_graph or not self.vision_learns else [None] * len(group)
                del features
        return rollouts, kept

    def score(
        self, examples: Sequence[Example], rollouts: Sequence[list[Rollout]], features: Sequence[Tensor | None]
    ) -> list[ScoredRollouts | Skipped]:
        """The rewards of each example's completions, or why a reward could not read its video."""
        encoder, ends = self.run.checkpoint.encoder, self.run.checkpoint.end_ids
        results: list[ScoredRollouts | Skipped] = []
        with self.stopwatch.stage("rewards"), torch.no_grad():
            for example, group, clip in zip(examples, rollouts, features, strict=True):
                texts = [encoder.decode([t for t in rollout.tokens if t not in ends]) for rollout in group]
                asked = encoder.prompts.user_text(example.row.question, example.row.options or ())
                try:
                    scores = self.rewards.score(
                        example.row,
                        example.duration_s,
                        example.video,
                        [rollout.task for rollout in group],
                        [f"{asked}\n{encoder.prompts.prefix(rollout.task)}" for rollout in group],
                        texts,
                        [rollout.tokens for rollout in group],
                    )
                except VideoError as error:
                    results.append(Skipped(example.source, example.row.id, str(error)))
                else:
                    results.append(ScoredRollouts(example, clip, group, texts, scores))
        return results

    def set_aside_failed(self, failed: Sequence[Skipped]) -> None:
        """Set aside the examples whose video a reward could not read. Every process must call this."""
        self.metrics.sums["rows"] -= len(failed)
        self.set_aside(failed)

    def experience(self, scored: Sequence[ScoredRollouts], completions: int, tokens: int, reference: Any) -> Experience:
        """What a micro-batch learns from some scored completions, the reference's log-probabilities included.

        Args:
            completions, tokens: totals of the whole step.
            reference: the model; None without a divergence term.
        """
        recipe, examples = self.recipe, [one.example for one in scored]
        batch = self._tree_batch(examples, [one.learned_completions() for one in scored])
        weights = [
            token_weights(
                one.lengths, one.is_counted, recipe.loss_type, recipe.max_completion_length, completions, tokens
            )[one.is_learned]
            for one in scored
        ]
        features = [one.features for one in scored if one.features is not None] or None
        return Experience(
            batch,
            batch.clip_inputs([example.patches for example in examples], features),
            torch.cat([one.advantages[one.is_learned] for one in scored])[batch.completion],
            torch.cat(weights)[batch.completion],
            torch.cat([one.rollouts[i].log_probs for one in scored for i in one.learned]),
            self.reference_log_probs(reference, examples, batch, features),
        )

    def dummy_experience(self) -> Experience | None:
        """For a process that has nothing to learn in a step in which other processes do: one token of weight 0."""
        if not self.needs_dummy:
            return None
        example, end = self.run.dataset.maker.dummy(), self.run.checkpoint.encoder.end_id
        batch = self._tree_batch([example], [{next(iter(example.prompt.prefixes)): [(end,)]}])
        zero = torch.zeros(1)
        reference = zero.to(self.args.device) if self.recipe.beta else None
        features = None
        if self.has_split_weights and not self.vision_learns:
            # Other processes leave the vision tower out. To run it here, they would have to gather its weights with us.
            visual = int(example.prompt.trunk.visual.sum())
            width = unwrapped(self.model).config.get_text_config().hidden_size
            features = [torch.zeros(visual, width, device=self.args.device, dtype=self.gathered_dtype)]
        return Experience(batch, batch.clip_inputs([example.patches], features), zero, zero, zero, reference)

    @contextlib.contextmanager
    def whole_reference(self) -> Iterator[Any]:
        """The reference with whole weights: its own model, or the policy without adapters; None without beta.

        Every process must enter it together.
        """
        if self.recipe.beta == 0:
            yield None
            return
        with self.stopwatch.stage("reference"), contextlib.ExitStack() as stack:
            reference = self.reference
            if isinstance(reference, SplitCopy):
                reference = stack.enter_context(reference.whole())
            elif reference is None:
                stack.enter_context(self._sampling_mode())
                policy = stack.enter_context(self.whole_model())
                stack.enter_context(policy.disable_adapter())
                reference = unwrapped(policy)
            yield reference

    def reference_log_probs(
        self, reference: Any, examples: Sequence[Example], batch: TreeBatch, features: Sequence[Tensor] | None
    ) -> Tensor | None:
        """float32[N] under the reference; None without one."""
        if reference is None:
            return None
        # The policy's features serve the reference where both have the same vision tower and it does not learn.
        is_same = self.recipe.ref_model is None and not self.vision_learns
        clips = batch.clip_inputs([example.patches for example in examples], features if is_same else None)
        with torch.no_grad(), self.accelerator.autocast():
            return self._log_probs(reference, batch, clips, in_parts=True)

    def report(self, scored: Sequence[ScoredRollouts]) -> None:
        """Add the metrics of a step's completions, and keep the best and worst of them."""
        for one in scored:
            self.metrics.add("reward", one.totals)
            self.metrics.add("completion_length", one.lengths)
            self.metrics.add("completion_truncated", (~one.is_finished).float())
            if self.recipe.beta:
                self.metrics.add("kl_share", one.is_learned.float())
            for name, values in one.scores.each.items():
                self.metrics.add(f"reward/{name}", [value for value in values if value is not None])
            self.metrics.add("parse_rate", one.is_parsed)
            is_flat = same_rewards(one.totals, one.groups)
            for task in one.example.prompt.prefixes:
                own = [i for i, rollout in enumerate(one.rollouts) if rollout.task is task]
                self.metrics.add(f"parse_rate/{task}", one.is_parsed[own])
                self.metrics.add(f"zero_variance_groups/{task}", is_flat[own[:1]])
                self.metrics.add("zero_variance_groups", is_flat[own[:1]])
        self.rollout_log.write(self.state.global_step + 1, [record for one in scored for record in one.records()])

    def collect_metrics(self) -> dict[str, float]:
        metrics = super().collect_metrics()
        if self.args.should_save:
            for message in self.alarm.update(self.state.global_step, metrics):
                say(f"warning: {message}", to_stderr=True)
        return metrics

    def _update_reuses_features(self, micro_batches: int) -> bool:
        """Whether the update continues from the features of the rollout, with their graph.

        It does where the vision tower learns and a step is one micro-batch with one update; otherwise the graphs of
        all clips would be held at once. Gathered weights have no graph.
        """
        recipe = self.recipe
        is_one_pass = recipe.shared_prompt and recipe.num_iterations == micro_batches == 1
        return self.vision_learns and is_one_pass and not self.has_split_weights

    def _tree_batch(self, examples: Sequence[Example], completions: Sequence[dict[Task, list[Any]]]) -> TreeBatch:
        pad_id = self.run.checkpoint.encoder.pad_id
        return TreeBatch.from_prompts(
            [example.prompt for example in examples], completions, pad_id, self.recipe.shared_prompt
        )

    def _log_probs(self, model: Any, batch: TreeBatch, clips: dict[str, Any], in_parts: bool) -> Tensor:
        return token_log_probs(
            model,
            batch,
            clips,
            self.recipe.temperature,
            self.run.checkpoint.banned_ids,
            in_parts,
            device=self.args.device,
        )

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
