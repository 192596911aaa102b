"""The gradient of a step is that of the published objective, written out by hand with one plain row a completion.

The reference is a model of its own, so the divergence counts from the first step, and the events of every row get equal
rewards, so half of the groups are flat.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.training.grpo.runs import recipe
from videoreasoner.models.checkpoint import load_checkpoint, save_checkpoint
from videoreasoner.models.tree_batch import unwrapped
from videoreasoner.tasks import Task
from videoreasoner.training.data.dataset import ExampleBatch
from videoreasoner.training.grpo.scored import ScoredRollouts
from videoreasoner.training.grpo.setup import prepare_grpo
from videoreasoner.training.grpo.trainer import GrpoTrainer

NEAR = 1e-5
LIMIT = 6


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reference that is not the model that training starts from."""
    checkpoint = load_checkpoint("tiny", "cpu")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in checkpoint.model.parameters():
            parameter *= 1 + 0.1 * torch.randn(parameter.shape, generator=generator)
    folder = tmp_path_factory.mktemp("other") / "reference"
    save_checkpoint(folder, checkpoint.model, checkpoint.encoder.tokenizer, checkpoint.settings, checkpoint.patches)
    return folder


def step(trainer: GrpoTrainer) -> tuple[list[ScoredRollouts], float, dict[str, Tensor]]:
    """The completions of a step over three rows, its loss, and its gradients."""
    seen: list[Any] = []
    score = trainer.score
    trainer.score = lambda *args: seen.append(score(*args)) or seen[-1]  # type: ignore[method-assign]
    batch = ExampleBatch.collate([trainer.run.dataset[i] for i in range(3)])
    [loss] = trainer.step_losses([batch])
    assert loss is not None
    trainer.model.zero_grad()
    value = loss(trainer.model)
    value.backward()
    return seen[0], value.item(), gradients(trainer)


def gradients(trainer: GrpoTrainer) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in unwrapped(trainer.model).named_parameters() if p.grad is not None}


def log_probs(model: Any, one: ScoredRollouts, number: int, banned: list[int]) -> Tensor:
    """float32[n] of a completion's tokens, from one plain causal row of the stock model."""
    prompt, rollout = one.example.prompt, one.rollouts[number]
    text = torch.tensor([*prompt.question, *prompt.prefixes[rollout.task], *rollout.tokens])
    trunk, following = prompt.trunk.positions
    ids = torch.cat([prompt.trunk.input_ids, text])
    positions = torch.cat([trunk, torch.arange(following, following + len(text)).expand(3, -1)], dim=1)
    logits = model(
        input_ids=ids[None],
        position_ids=positions[:, None],
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        mm_token_type_ids=(ids[None] == prompt.trunk.video_token_id).long() * 2,
        pixel_values_videos=one.example.patches.pixel_values,
        video_grid_thw=torch.tensor([one.example.patches.grid]),
        use_cache=False,
    ).logits[0, -len(rollout.tokens) - 1 : -1]
    logits = logits.index_fill(1, torch.tensor(banned), -torch.inf)
    return logits.log_softmax(-1).gather(1, torch.tensor(rollout.tokens)[:, None])[:, 0]


def published_loss(trainer: GrpoTrainer, scored: list[ScoredRollouts], loss_type: str, masks: bool) -> Tensor:
    """-J with beta 0.04: every completion's clipped objective and divergence, averaged as `loss_type` says."""
    banned = list(trainer.run.checkpoint.banned_ids)
    everyone = [(one, i, rollout) for one in scored for i, rollout in enumerate(one.rollouts)]
    counted = [rollout for _, _, rollout in everyone if rollout.finished or not masks]
    loss = torch.zeros(())
    for one, i, rollout in everyone:
        if masks and not rollout.finished:
            continue
        group = torch.tensor([one.scores.totals[k] for k, r in enumerate(one.rollouts) if r.task is rollout.task])
        advantage = (one.scores.totals[i] - group.mean()) / (group.std() + 1e-4)
        now = log_probs(unwrapped(trainer.model), one, i, banned)
        with torch.no_grad():
            difference = log_probs(trainer.reference, one, i, banned)
        difference = difference - now
        each = torch.exp(now - now.detach()) * advantage - 0.04 * (torch.exp(difference) - difference - 1)
        share = {
            "grpo": 1 / len(rollout.tokens) / len(everyone),
            "dr_grpo": 1 / LIMIT / len(everyone),
            "dapo": 1 / sum(len(r.tokens) for r in counted),
        }[loss_type]
        loss = loss - each.sum() * share
    return loss


@pytest.mark.parametrize(
    "changes",
    [{}, {"loss_type": "dapo", "mask_truncated_completions": True}, {"loss_type": "dr_grpo"}, {"shared_prompt": False}],
    ids=str,
)
def test_flat_groups_keep_their_divergence(changes: dict[str, Any], videos: Path, other: Path, tmp_path: Path) -> None:
    rewards = {f"{videos / 'odd.py'}:same_event_odd_answer": 1.0}
    more = {"ref_model": str(other), "max_completion_length": LIMIT, "temperature": 1.0, "rewards": rewards, **changes}
    trainer = prepare_grpo(recipe(videos, tmp_path / "out", **more))
    scored, loss, mine = step(trainer)
    assert sum(len(set(one.scores.totals[:4])) for one in scored) == len(scored)
    trainer.model.zero_grad()
    masks = "mask_truncated_completions" in changes
    expected = published_loss(trainer, scored, changes.get("loss_type", "grpo"), masks)
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=NEAR)
    theirs = gradients(trainer)
    assert mine.keys() == theirs.keys()
    whole = torch.cat([value.flatten() for value in theirs.values()]).norm()
    for name, value in theirs.items():
        assert (mine[name] - value).norm() <= NEAR * (value.norm() + 1e-3 * whole), name
    metrics = trainer.metrics
    covered = [r.finished or not masks for one in scored for r in one.rollouts]
    assert metrics.sums["kl_share"] / metrics.counts["kl_share"] == pytest.approx(sum(covered) / len(covered))
    lengths = [len(r.tokens) for one in scored for r in one.rollouts if r.finished or not masks]
    assert metrics.counts["kl"] == sum(lengths)


@pytest.mark.parametrize("changes", [{"skip_flat_groups": True}, {"beta": 0.0}], ids=str)
def test_flat_groups_may_be_left_out(changes: dict[str, Any], videos: Path, tmp_path: Path) -> None:
    """Without a divergence term they have no gradient; with `skip_flat_groups` theirs is given up."""
    rewards = {f"{videos / 'odd.py'}:same_event_odd_answer": 1.0}
    trainer = prepare_grpo(recipe(videos, tmp_path / "out", rewards=rewards, **changes))
    scored, _, mine = step(trainer)
    for one in scored:
        assert not one.is_learned[:4].any()
        assert {one.rollouts[i].task for i in one.learned} <= {Task.ANSWER}
    assert ("kl_share" in trainer.metrics.sums) == ("beta" not in changes)
    # With the policy as its own reference the divergence is at its minimum, so that the gradient is the same with it.
    everything = prepare_grpo(recipe(videos, tmp_path / "all", rewards=rewards))
    _, _, theirs = step(everything)
    for name, value in theirs.items():
        assert (mine[name] - value).norm() <= 1e-4 * (value.norm() + 1e-3), name
