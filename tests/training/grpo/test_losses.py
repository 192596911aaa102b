"""Advantages and objective equal TRL's on the same numbers, and keep what they promise."""

from __future__ import annotations

import json
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.paths import ROOT
from videoreasoner.training.grpo.losses import (
    LOG_RATIO_LIMIT,
    Normalisation,
    clipped_objective,
    group_advantages,
    is_clipped,
    k3,
    same_rewards,
    token_weights,
)

TRL = json.loads((ROOT / "tests" / "data" / "trl_objective.json").read_text())
MASK = torch.tensor(TRL["mask"], dtype=torch.bool)
LENGTHS = MASK.sum(1)
REWARDS = st.lists(st.sampled_from([0.0, 0.1, 0.25, 1.0, 1.7]), min_size=2, max_size=6)


def flat(name: str) -> torch.Tensor:
    """TRL's padded [M, T] numbers as the tokens that count, one completion behind the other."""
    return torch.tensor(TRL[name])[MASK]


def our_loss(log_probs: torch.Tensor, case: dict) -> torch.Tensor:
    counted = LENGTHS > 0
    weights = token_weights(LENGTHS, counted, case["loss_type"], TRL["max_length"]).repeat_interleave(LENGTHS)
    advantages = torch.tensor(TRL["advantages"]).repeat_interleave(LENGTHS)
    epsilons = (case["epsilon_low"], case["epsilon_high"])
    objective = clipped_objective(log_probs, flat("old_log_probs"), advantages, *epsilons)
    return -((objective - case["beta"] * k3(log_probs, flat("reference_log_probs"))) * weights).sum()


@pytest.mark.parametrize("case", TRL["losses"], ids=lambda c: f"{c['loss_type']} beta {c['beta']} {c['epsilon_high']}")
def test_loss_and_gradient_are_trls(case: dict) -> None:
    log_probs = flat("log_probs").requires_grad_()
    loss = our_loss(log_probs, case)
    [gradient] = torch.autograd.grad(loss, log_probs)
    assert loss.item() == pytest.approx(case["loss"], rel=1e-5)
    torch.testing.assert_close(gradient, torch.tensor(case["gradient"])[MASK], rtol=1e-5, atol=1e-8)
    old, advantages = flat("old_log_probs"), torch.tensor(TRL["advantages"]).repeat_interleave(LENGTHS)
    clipped = is_clipped(flat("log_probs"), old, advantages, case["epsilon_low"], case["epsilon_high"])
    assert 0 < clipped.float().mean().item() == pytest.approx(case["clipped"], rel=1e-5)
    # Clipping takes the policy gradient away; what is left comes from the divergence.
    assert case["beta"] or not gradient[clipped].any()
    if case["beta"]:
        assert k3(flat("log_probs"), flat("reference_log_probs")).mean().item() == pytest.approx(case["kl"], rel=1e-5)


@pytest.mark.parametrize(("scale", "name"), [(True, "group"), (False, "none")])
def test_advantages_are_trls(scale: bool, name: str) -> None:
    each = torch.tensor([[torch.nan if v is None else v for v in row] for row in TRL["rewards"]])
    total = each.nansum(1)
    total[each.isnan().all(1)] = torch.nan
    groups = torch.arange(len(total)) // TRL["group"]
    expected = torch.tensor(TRL["group_advantages"][name])
    assert (expected[~same_rewards(total, groups)] != 0).sum() >= 7
    torch.testing.assert_close(group_advantages(total, groups, scale), expected, rtol=1e-4, atol=1e-6)


@given(st.lists(REWARDS, min_size=1, max_size=4), st.booleans(), st.randoms())
def test_a_groups_advantages_depend_on_that_group_alone(rewards: list[list[float]], scale: bool, random) -> None:
    alone = [group_advantages(torch.tensor(r), torch.zeros(len(r), dtype=torch.long), scale) for r in rewards]
    numbered = [(value, group) for group, values in enumerate(rewards) for value in values]
    order = list(range(len(numbered)))
    random.shuffle(order)
    together = group_advantages(
        torch.tensor([numbered[i][0] for i in order]), torch.tensor([numbered[i][1] for i in order]), scale
    )
    assert torch.equal(together, torch.cat(alone)[order])


@given(REWARDS, st.booleans())
def test_advantages_are_centred_ordered_and_zero_for_equal_rewards(rewards: list[float], scale: bool) -> None:
    values = torch.tensor(rewards)
    groups = torch.zeros(len(values), dtype=torch.long)
    advantages = group_advantages(values, groups, scale)
    assert same_rewards(values, groups).all() == (len(set(rewards)) == 1)
    assert (advantages == 0).all() == (len(set(rewards)) == 1)
    assert advantages.sum().abs() < 1e-5
    assert torch.equal(advantages.argsort(stable=True), values.argsort(stable=True))


def test_a_completion_without_a_reward_has_no_advantage_and_changes_no_other() -> None:
    groups = torch.zeros(4, dtype=torch.long)
    values = torch.tensor([0.0, torch.nan, 1.0, 0.5])
    advantages = group_advantages(values, groups)
    assert advantages[1] == 0
    known = torch.tensor([0, 2, 3])
    assert torch.equal(advantages[known], group_advantages(values[known], groups[:3]))
    assert not group_advantages(torch.full((4,), torch.nan), groups).any()


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(1, 9), st.booleans()), min_size=1, max_size=8),
    st.sampled_from(get_args(Normalisation)),
    st.integers(1, 7),
)
def test_parts_of_a_batch_add_up_to_the_whole(completions, normalisation, cut) -> None:
    lengths = torch.tensor([length for length, _ in completions])
    counted = torch.tensor([kept for _, kept in completions])
    whole = token_weights(lengths, counted, normalisation, 9)
    totals = (len(lengths), int(lengths[counted].sum()))
    parts = [
        token_weights(lengths[part], counted[part], normalisation, 9, *totals)
        for part in (slice(None, cut), slice(cut, None))
    ]
    assert torch.equal(torch.cat(parts), whole)
    assert not whole[~counted].any()
    if counted.all() and normalisation != "dr_grpo":
        assert float((whole * lengths).sum()) == pytest.approx(1.0, rel=1e-5)


def test_the_first_update_has_a_ratio_of_one() -> None:
    log_probs = flat("log_probs").requires_grad_()
    advantages = torch.tensor(TRL["advantages"]).repeat_interleave(LENGTHS)
    objective = clipped_objective(log_probs, log_probs.detach(), advantages, 0.2, 0.2)
    assert torch.equal(objective.detach(), advantages)
    # The gradient of a ratio of one is that of the log-probability: plain policy gradient.
    [gradient] = torch.autograd.grad(objective.sum(), log_probs)
    torch.testing.assert_close(gradient, advantages)


@given(st.lists(st.floats(-50, 0), min_size=1, max_size=5), st.lists(st.floats(-50, 0), min_size=5, max_size=5))
def test_k3_is_never_negative_bounded_and_zero_between_equals(policy: list[float], reference: list[float]) -> None:
    mine, theirs = torch.tensor(policy), torch.tensor(reference[: len(policy)])
    divergence = k3(mine, theirs)
    assert (divergence >= -1e-6).all()
    assert (divergence <= torch.exp(torch.tensor(LOG_RATIO_LIMIT))).all()
    assert not k3(mine, mine).any()
