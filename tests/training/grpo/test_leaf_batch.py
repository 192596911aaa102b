"""One packed tree a query learns exactly what repeated rows learn: the same loss, the same gradients."""

from __future__ import annotations

import pytest
import torch

from tests.models.tiny_models import random_qwen2_5_vl, random_qwen2_vl
from tests.training.queries import PAD, query
from videoreasoner.tasks import Task
from videoreasoner.training.data.queries import Query
from videoreasoner.training.grpo import leaf_batch as leaf_batch_module
from videoreasoner.training.grpo.leaf_batch import clip_inputs, completion_log_probs, leaf_batch
from videoreasoner.training.grpo.losses import clipped_objective, k3, token_weights
from videoreasoner.training.grpo.rollouts import Rollout, encode_clip

BANNED = (5, 6)
FAMILIES = {"qwen2_vl": (random_qwen2_vl, None), "qwen2_5_vl": (random_qwen2_5_vl, 2.0)}
MODES = ["vision trained", "vision frozen", "checkpointing", "lora", "lora and checkpointing"]


def prepared(family: str, mode: str):
    model = FAMILIES[family][0]()
    model.train()
    if mode == "vision frozen":
        model.model.visual.requires_grad_(False)
    if "checkpointing" in mode:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    if "lora" in mode:
        from peft import LoraConfig, get_peft_model

        targets = r".*(language_model.*(q_proj|v_proj|down_proj)|visual.*qkv)"
        # Not from zero: an adapter that does nothing yet has no gradient on one of its sides.
        model = get_peft_model(model, LoraConfig(r=4, target_modules=targets, init_lora_weights=False))
    return model


def rollouts_of(asked: Query, count: int, seed: int) -> list[Rollout]:
    """Completions of every length, as many for each task as its place says: groups that skipping has left uneven."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for place, task in enumerate(asked.prefixes):
        for number in range(count + place):
            length = 1 + (number + place) % 5
            tokens = torch.randint(20, 480, (length,), generator=generator)
            made.append(Rollout(task, number, tuple(tokens.tolist()), torch.zeros(length), True))
    return made


def cases(per_second: float | None) -> tuple[list[Query], list[list[Rollout]]]:
    queries = [
        query(0, tokens_per_second=per_second),
        query(1, (2, 6, 4), tuple(Task), tokens_per_second=per_second),
        query(2, (1, 4, 4), (Task.ANSWER,), tokens_per_second=per_second),
    ]
    return queries, [rollouts_of(asked, 2 + i, i) for i, asked in enumerate(queries)]


def loss_of(model, queries, rollouts, shared_prompt, features=None):
    """A GRPO loss in which every token's weight, advantage, ratio and divergence differ."""
    batch = leaf_batch(queries, rollouts, PAD, shared_prompt)
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    log_probs = completion_log_probs(model, plain, batch, clip_inputs(queries, batch.clips, features), 1.3, BANNED)
    generator = torch.Generator().manual_seed(7)
    advantages = torch.randn(len(batch.lengths), generator=generator)[batch.completion]
    old, reference = (log_probs.detach() + torch.randn(len(log_probs), generator=generator) * s for s in (0.1, 0.3))
    weights = token_weights(batch.lengths, batch.lengths > 0, "grpo", 5)[batch.completion]
    objective = clipped_objective(log_probs, old, advantages, 0.2, 0.2) - 0.04 * k3(log_probs, reference)
    return -(objective * weights).sum(), log_probs


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_all_gradients_equal_repeated_rows(family: str, mode: str) -> None:
    model = prepared(family, mode)
    queries, rollouts = cases(FAMILIES[family][1])
    loss, log_probs = loss_of(model, queries, rollouts, True)
    mine = gradients(model, loss)
    repeated, repeated_log_probs = loss_of(model, queries, rollouts, False)
    theirs = gradients(model, repeated)
    torch.testing.assert_close(log_probs, repeated_log_probs, rtol=1e-5, atol=1e-4)
    assert loss.item() == pytest.approx(repeated.item(), rel=1e-5)
    learning = {name for name, p in model.named_parameters() if p.requires_grad}
    assert mine.keys() == theirs.keys() == learning
    assert any("visual" in name for name in learning) == (mode != "vision frozen")
    for name, expected in theirs.items():
        assert expected.norm() > 0, name
        assert (mine[name] - expected).norm() <= 1e-5 * expected.norm(), name


@pytest.mark.parametrize("tokens", [1, 7])
def test_logits_may_be_computed_a_few_tokens_at_a_time(tokens: int, monkeypatch) -> None:
    model = prepared("qwen2_vl", "whole")
    queries, rollouts = cases(None)
    loss, log_probs = loss_of(model, queries, rollouts, True)
    at_once = gradients(model, loss)
    held: list[int] = []
    model.lm_head.register_forward_hook(lambda _, __, logits: held.append(len(logits)))
    monkeypatch.setattr(leaf_batch_module, "_LOGIT_BYTES", tokens * 4 * len(model.lm_head.weight))
    split_loss, split_log_probs = loss_of(model, queries, rollouts, True)
    in_parts = gradients(model, split_loss)
    assert max(held) == tokens
    # Once forward, and once more for the gradients.
    assert sum(held) == 2 * len(log_probs)
    torch.testing.assert_close(split_log_probs, log_probs, rtol=1e-5, atol=1e-5)
    for name, gradient in at_once.items():
        torch.testing.assert_close(in_parts[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_features_of_a_frozen_tower_give_the_same_gradients() -> None:
    model = prepared("qwen2_vl", "vision frozen")
    queries, rollouts = cases(None)
    features = [encode_clip(model, asked.patches) for asked in queries]
    loss, _ = loss_of(model, queries, rollouts, True)
    theirs = gradients(model, loss)
    again, _ = loss_of(model, queries, rollouts, True, features)
    mine = gradients(model, again)
    assert mine.keys() == theirs.keys()
    for name, expected in theirs.items():
        assert (mine[name] - expected).norm() <= 1e-5 * expected.norm(), name


def test_a_tree_holds_its_clip_and_prompt_once() -> None:
    queries, rollouts = cases(None)
    tree = leaf_batch(queries, rollouts, PAD)
    rows = leaf_batch(queries, rollouts, PAD, shared_prompt=False)
    completions = [len(group) for group in rollouts]
    assert tree.clips == [0, 1, 2]
    assert rows.clips == [i for i, count in enumerate(completions) for _ in range(count)]
    video = queries[0].trunk.video_token_id
    visual = [int(asked.trunk.visual.sum()) for asked in queries]
    assert int((tree.inputs["input_ids"] == video).sum()) == sum(visual)
    repeated = sum(v * c for v, c in zip(visual, completions, strict=True))
    assert int((rows.inputs["input_ids"] == video).sum()) == repeated
    for batch in (tree, rows):
        assert batch.labels.tolist() == [t for group in rollouts for r in group for t in r.tokens]
        assert batch.lengths.tolist() == [len(r.tokens) for group in rollouts for r in group]
