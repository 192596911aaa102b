"""One packed tree for each prompt learns exactly what repeated rows learn: the same loss, the same gradients."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.models.tiny_models import random_qwen2_5_vl, random_qwen2_vl, recompute_activations
from tests.training.random_examples import PAD, random_example
from videoreasoner.models import tree_batch as tree_batch_module
from videoreasoner.models.prompt_tree import PromptTree, Trunk, collate
from videoreasoner.models.tree_batch import TreeBatch, encode_clip, token_log_probs
from videoreasoner.tasks import Task
from videoreasoner.training.data.examples import Example
from videoreasoner.training.grpo.losses import clipped_objective, k3, token_weights

BANNED = (5, 6)
FAMILIES = {"qwen2_vl": (random_qwen2_vl, None), "qwen2_5_vl": (random_qwen2_5_vl, 2.0)}
MODES = ["vision trained", "vision frozen", "checkpointing", "lora", "lora and checkpointing"]


def prepared(family: str, mode: str):
    model = FAMILIES[family][0]()
    model.train()
    if mode == "vision frozen":
        model.model.visual.requires_grad_(False)
    if "checkpointing" in mode:
        recompute_activations(model)
        model.enable_input_require_grads()
    if "lora" in mode:
        from peft import LoraConfig, get_peft_model

        targets = r".*(language_model.*(q_proj|v_proj|down_proj)|visual.*qkv)"
        # Not from zero: an adapter that does nothing yet has no gradient on one of its sides.
        model = get_peft_model(model, LoraConfig(r=4, target_modules=targets, init_lora_weights=False))
    return model


def completions_of(example: Example, count: int, seed: int) -> dict[Task, list[tuple[int, ...]]]:
    """Completions of several lengths, with another number for each task."""
    generator = torch.Generator().manual_seed(seed)
    made: dict[Task, list[tuple[int, ...]]] = {}
    for place, task in enumerate(example.prompt.prefixes):
        for number in range(count + place):
            tokens = torch.randint(20, 480, (1 + (number + place) % 5,), generator=generator)
            made.setdefault(task, []).append(tuple(tokens.tolist()))
    return made


def lay_out(examples, completions, shared_prompt=True) -> TreeBatch:
    return TreeBatch.from_prompts([example.prompt for example in examples], completions, PAD, shared_prompt)


def flat(completions) -> list[tuple[int, ...]]:
    return [tokens for by_task in completions for group in by_task.values() for tokens in group]


def cases(per_second: float | None) -> tuple[list[Example], list[dict[Task, list[tuple[int, ...]]]]]:
    examples = [
        random_example(0, tokens_per_second=per_second),
        random_example(1, (2, 6, 4), tuple(Task), tokens_per_second=per_second),
        random_example(2, (1, 4, 4), (Task.ANSWER,), tokens_per_second=per_second),
    ]
    return examples, [completions_of(example, 2 + i, i) for i, example in enumerate(examples)]


def loss_of(model, examples, completions, shared_prompt, features=None):
    """A GRPO loss in which every token's weight, advantage, ratio and divergence differ."""
    batch = lay_out(examples, completions, shared_prompt)
    clips = batch.clip_inputs([example.patches for example in examples], features)
    log_probs = token_log_probs(model, batch, clips, 1.3, BANNED)
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
    examples, completions = cases(FAMILIES[family][1])
    loss, log_probs = loss_of(model, examples, completions, True)
    mine = gradients(model, loss)
    repeated, repeated_log_probs = loss_of(model, examples, completions, False)
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
    examples, completions = cases(None)
    loss, log_probs = loss_of(model, examples, completions, True)
    at_once = gradients(model, loss)
    held: list[int] = []
    model.lm_head.register_forward_hook(lambda _, __, logits: held.append(len(logits)))
    monkeypatch.setattr(tree_batch_module, "_LOGIT_BYTES", tokens * 4 * len(model.lm_head.weight))
    split_loss, split_log_probs = loss_of(model, examples, completions, True)
    in_parts = gradients(model, split_loss)
    assert max(held) == tokens
    # Once forward, and once more for the gradients.
    assert sum(held) == 2 * len(log_probs)
    torch.testing.assert_close(split_log_probs, log_probs, rtol=1e-5, atol=1e-5)
    for name, gradient in at_once.items():
        torch.testing.assert_close(in_parts[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_features_of_a_frozen_tower_give_the_same_gradients() -> None:
    model = prepared("qwen2_vl", "vision frozen")
    examples, completions = cases(None)
    features = [encode_clip(model, example.patches) for example in examples]
    loss, _ = loss_of(model, examples, completions, True)
    theirs = gradients(model, loss)
    again, _ = loss_of(model, examples, completions, True, features)
    mine = gradients(model, again)
    assert mine.keys() == theirs.keys()
    for name, expected in theirs.items():
        assert (mine[name] - expected).norm() <= 1e-5 * expected.norm(), name


def test_a_tree_holds_its_clip_and_prompt_once() -> None:
    examples, completions = cases(None)
    tree = lay_out(examples, completions)
    rows = lay_out(examples, completions, shared_prompt=False)
    counts = [len(flat([by_task])) for by_task in completions]
    assert tree.clips == (0, 1, 2)
    assert rows.clips == tuple(i for i, count in enumerate(counts) for _ in range(count))
    video = examples[0].prompt.trunk.video_token_id
    visual = [int(example.prompt.trunk.visual.sum()) for example in examples]
    assert int((tree.inputs["input_ids"] == video).sum()) == sum(visual)
    repeated = sum(v * c for v, c in zip(visual, counts, strict=True))
    assert int((rows.inputs["input_ids"] == video).sum()) == repeated
    for batch in (tree, rows):
        assert batch.labels.tolist() == [token for tokens in flat(completions) for token in tokens]
        assert batch.lengths.tolist() == [len(tokens) for tokens in flat(completions)]


def test_a_prompt_without_prefixes_has_its_completions_behind_the_question() -> None:
    """The cold start trains the prefix as a part of the completion: the same tokens, the same log-probabilities."""
    model = FAMILIES["qwen2_vl"][0]().eval()
    example = random_example(0, tasks=(Task.EVENT, Task.ANSWER))
    prefixes = example.prompt.prefixes
    bare = replace(example.prompt, prefixes={})
    completions = {task: [(21, 22, 23)] for task in prefixes}
    whole = {task: [(*prefixes[task], 21, 22, 23)] for task in prefixes}
    given = TreeBatch.from_prompts([example.prompt], [completions], PAD)
    written = TreeBatch.from_prompts([bare], [whole], PAD)
    with torch.no_grad():
        theirs = token_log_probs(model, given, given.clip_inputs([example.patches]))
        mine = token_log_probs(model, written, written.clip_inputs([example.patches]))
    ends = written.lengths.cumsum(0)
    tails = torch.cat([mine[end - 3 : end] for end in ends.tolist()])
    torch.testing.assert_close(tails, theirs, rtol=1e-5, atol=1e-5)


def test_a_prompt_without_completions_keeps_its_row_and_takes_part_in_the_pass() -> None:
    model = FAMILIES["qwen2_vl"][0]().train()
    example = random_example(0)
    batch = TreeBatch.from_prompts([example.prompt], [{}], PAD)
    log_probs = token_log_probs(model, batch, batch.clip_inputs([example.patches]))
    assert log_probs.shape == (0,)
    log_probs.sum().backward()
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in model.parameters())


def test_a_long_prompt_never_makes_a_square_matrix() -> None:
    """The mask has rows only for the tokens behind the trunk: memory grows with L, not with L x L."""
    length = 4000
    trunk = Trunk(((5,) * length,), 7)
    tree = PromptTree(trunk)
    node = tree.add((1, 2, 3))
    tree.add((4, 5), node)
    largest: list[int] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            made = func(*args, **(kwargs or {}))
            if isinstance(made, torch.Tensor):
                largest.append(made.numel())
            return made

    with Watch():
        inputs = collate([tree.pack()], PAD)
    assert inputs["attention_mask"].shape[2] < 10
    assert max(largest) < 20 * length


class UnreadableHead(torch.nn.Module):
    """A head like peft's around trainable tokens: reading its weight would build a whole matrix."""

    def __init__(self, head: torch.nn.Module) -> None:
        super().__init__()
        self.head, self.calls = head, 0

    @property
    def weight(self) -> torch.Tensor:
        raise AssertionError("the weight of the head was read")

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.head(hidden)


@pytest.mark.parametrize(("in_parts", "calls"), [(True, 7), (False, 1)])
def test_the_head_is_called_and_never_read(in_parts: bool, calls: int, monkeypatch) -> None:
    """Each call gathers split weights, so every process must make as many: one, unless the head works in parts."""
    model = prepared("qwen2_vl", "whole")
    examples, completions = cases(None)
    model.lm_head = head = UnreadableHead(model.lm_head)
    batch = lay_out(examples, completions)
    count = len(batch.labels)
    monkeypatch.setattr(tree_batch_module, "tokens_at_once", lambda vocabulary: -(-count // 7))
    with torch.no_grad():
        clips = batch.clip_inputs([example.patches for example in examples])
        token_log_probs(model, batch, clips, banned_ids=BANNED, in_parts=in_parts)
    assert head.calls == calls
