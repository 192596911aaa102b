"""The step: one tree a row gives the loss and all gradients of one plain row a task, however a step is cut."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.models.tiny_models import recompute_activations
from tests.training.random_examples import PAD
from tests.training.toy import FAMILIES, make_data, make_model, maker_for
from videoreasoner.models.checkpoint import Checkpoint, load_checkpoint
from videoreasoner.models.prompt_tree import PromptTree
from videoreasoner.models.tree_batch import token_log_probs
from videoreasoner.rows import read_rows
from videoreasoner.tasks import Task
from videoreasoner.training.cold_start import target_batch
from videoreasoner.training.data.examples import Example, ExampleMaker
from videoreasoner.training.recipe import Lora
from videoreasoner.training.runtime.adapters import add_adapters

NEAR = 1e-5


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("models")

    @cache
    def load(family: str, tied: bool = True) -> Checkpoint:
        return load_checkpoint(make_model(folder / f"{family}-{tied}", family, tied), "cpu")

    return load


def examples(maker: ExampleMaker, data: Path) -> list[Example]:
    # Videos of different lengths in tokens, so that a batch has padding.
    varied = [replace(maker, max_length=length) for length in (4096, 270, 4096)]
    rows = list(read_rows(data))[:3]
    return [one.example("data", row, row.video_path(data.parent)) for one, row in zip(varied, rows, strict=True)]


def likelihoods(model: Any, items: Sequence[Example], shared: bool = True) -> torch.Tensor:
    """Negative log-likelihood of each target token."""
    batch = target_batch(items, PAD, shared)
    return -token_log_probs(model, batch, batch.clip_inputs([item.patches for item in items]))


def loss_and_gradients(
    model: Any, batches: Sequence[Sequence[Example]], shared: bool = True
) -> tuple[float, dict[str, torch.Tensor]]:
    """Of one step over several batches; the shares are those of `ColdStartTrainer.loss`."""
    model.zero_grad()
    total = sum(len(tokens) for items in batches for item in items for tokens in item.targets.values())
    whole = 0.0
    for items in batches:
        # Dropout must not differ between two ways to compute the same.
        torch.manual_seed(0)
        share = likelihoods(model, items, shared).sum() / total
        share.backward()
        whole += share.item()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return whole, found


def assert_same(mine: Any, theirs: Any) -> None:
    assert mine[0] == pytest.approx(theirs[0], rel=NEAR)
    assert mine[1].keys() == theirs[1].keys()
    for name, expected in theirs[1].items():
        assert (mine[1][name] - expected).norm() <= NEAR * expected.norm(), name


def adapted(checkpoint: Checkpoint, kind: str) -> Any:
    """The model to train: whole, with activations computed again, or with adapters that already say something."""
    model = copy.deepcopy(checkpoint.model).train()
    if "lora" in kind:
        model = add_adapters(model, Lora(r=4, lora_alpha=8, lora_dropout=0.0), checkpoint.encoder, seed=0)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(std=0.2)
    if "checkpointing" in kind:
        recompute_activations(model)
    return model


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["whole", "checkpointing", "lora", "lora checkpointing"])
def test_a_tree_gives_loss_and_gradients_of_one_row_a_task(
    checkpoints: Any, data: Path, family: str, kind: str
) -> None:
    checkpoint = checkpoints(family)
    model = adapted(checkpoint, kind)
    items = examples(maker_for(checkpoint), data)
    # Three rows; the first has all four tasks, the others three each.
    rows = [len(target_batch(items, PAD, shared).inputs["input_ids"]) for shared in (True, False)]
    assert rows == [3, 10]
    mine = loss_and_gradients(model, [items])
    assert_same(mine, loss_and_gradients(model, [items], shared=False))
    assert all(p.requires_grad == (name in mine[1]) for name, p in model.named_parameters())
    assert any("visual" in name for name in mine[1]) == ("lora" not in kind)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_is_its_rows_one_after_another(checkpoints: Any, data: Path, family: str) -> None:
    checkpoint = checkpoints(family)
    maker, model = maker_for(checkpoint), adapted(checkpoint, "whole")
    items = examples(maker, data)
    together = loss_and_gradients(model, [items])
    assert_same(together, loss_and_gradients(model, [[item] for item in items]))
    # A dummy example takes part in the step and changes nothing.
    assert_same(together, loss_and_gradients(model, [items, [maker.dummy()]]))


@pytest.mark.parametrize("family", FAMILIES)
def test_one_task_is_transformers_own_loss(checkpoints: Any, data: Path, family: str) -> None:
    """A plain causal row with labels, given to the stock model: what anybody would train with."""
    checkpoint = checkpoints(family)
    example = examples(maker_for(checkpoint, [Task.ANSWER]), data)[0]
    tree = PromptTree(example.prompt.trunk)
    parents = tree.add_prompt(example.prompt, example.targets)
    ids, positions = tree.row(tree.add(example.targets[Task.ANSWER], parents[Task.ANSWER]))
    target = len(example.targets[Task.ANSWER])
    labels = torch.full_like(ids, -100)
    labels[-target:] = ids[-target:]
    output = checkpoint.model(
        input_ids=ids[None],
        position_ids=positions[:, None],
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        mm_token_type_ids=(ids[None] == checkpoint.encoder.video_token_id).long() * 2,
        pixel_values_videos=example.patches.pixel_values,
        video_grid_thw=torch.tensor([example.patches.grid]),
        labels=labels[None],
        use_cache=False,
    )
    with torch.no_grad():
        assert likelihoods(checkpoint.model, [example]).mean().item() == pytest.approx(output.loss.item(), rel=NEAR)


def test_prefix_target_and_end_are_trained_and_nothing_else(checkpoints: Any, data: Path) -> None:
    checkpoint = checkpoints("qwen2_vl")
    [example, *_] = examples(maker_for(checkpoint), data)
    batch = target_batch([example], PAD)
    encoder, row = checkpoint.encoder, example.row
    expected = {
        Task.EVENT: "<|event_start|>[",
        Task.KEY_ELEMENTS: ", ".join(row.key_elements or ()),
        Task.ANSWER: row.answer or "",
        Task.THINK: f"{row.reasoning} </think> {row.answer}",
    }
    for number, task in enumerate(Task):
        ids = batch.labels[batch.completion == number].tolist()
        prefix = encoder.prefix(task)
        assert tuple(ids[: len(prefix)]) == prefix
        assert encoder.decode(ids[len(prefix) :]).startswith(expected[task])
        assert ids[-1] == encoder.end_id
    # The end of the question predicts the first token of every prefix.
    predictors = batch.inputs["logits_to_keep"][batch.kept]
    asked = len(example.prompt) - 1
    firsts = predictors[batch.lengths.cumsum(0) - batch.lengths]
    assert firsts.tolist() == [asked] * 4
    assert (predictors == asked).sum() == 4


def test_logits_are_those_that_each_row_needs(checkpoints: Any, data: Path) -> None:
    """Not those of every row at each position where some row predicts a target."""
    checkpoint = checkpoints("qwen2_vl")
    items = examples(maker_for(checkpoint), data)
    seen: list[int] = []
    handle = checkpoint.model.lm_head.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    with torch.no_grad():
        likelihoods(checkpoint.model, items)
    handle.remove()
    assert seen == [sum(len(tokens) for item in items for tokens in item.targets.values())]


@pytest.mark.parametrize("tied", [True, False])
def test_adapters_train_the_event_tokens_alone_of_the_vocabulary(checkpoints: Any, data: Path, tied: bool) -> None:
    checkpoint = checkpoints("qwen2_vl", tied)
    model = adapted(checkpoint, "lora")
    _, found = loss_and_gradients(model, [examples(maker_for(checkpoint), data)])
    tokens = {name: gradient for name, gradient in found.items() if "token_adapter" in name}
    assert tokens
    assert all(gradient.shape[0] == 2 for gradient in tokens.values())
    assert all("lora" in name or "token_adapter" in name for name in found)
