"""Planned memory: parameters counted exactly, activations as autograd keeps them, and what splitting saves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.models.tiny_models import random_qwen2_5_vl, random_qwen2_vl
from tests.training.toy import make_data, make_model, recipe_content
from videoreasoner.errors import SettingError
from videoreasoner.models.checkpoint import load_checkpoint
from videoreasoner.models.tree_batch import token_log_probs
from videoreasoner.training.cold_start import target_batch
from videoreasoner.training.data.examples import example_maker
from videoreasoner.training.data.sources import read_sources
from videoreasoner.training.grpo.recipe import GrpoRecipe
from videoreasoner.training.planning.memory import (
    STRATEGIES,
    Hardware,
    StepShape,
    count_parameters,
    estimate,
    estimate_rollout,
    trained_parameters,
)
from videoreasoner.training.planning.model import PUBLISHED, meta_model
from videoreasoner.training.recipe import ColdStartRecipe, Lora, parse_recipe
from videoreasoner.training.runtime.adapters import add_adapters

STEP = StepShape(1, 4000, 3600, 60)
ONE_GPU = Hardware()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("planning")
    make_model(made / "model")
    make_data(made / "data")
    return made


def recipe_for(folder: Path, **changes: Any) -> ColdStartRecipe:
    return parse_recipe({**recipe_content(folder, folder / "data" / "plain.jsonl"), **changes}, ColdStartRecipe)


def published(name: str) -> Any:
    return meta_model(PUBLISHED[name])


def plain(**changes: Any) -> ColdStartRecipe:
    """A recipe of which only what the memory depends on counts."""
    content = {"model_name_or_path": "m", "output_dir": "o", "data": [{"path": "d"}], **changes}
    return parse_recipe(content, ColdStartRecipe)


@pytest.mark.parametrize("make", [random_qwen2_vl, random_qwen2_5_vl])
@pytest.mark.parametrize("tied", [True, False])
def test_parameters_are_counted_exactly(make: Any, tied: bool, folder: Path) -> None:
    model = make(tied=tied)
    network = meta_model(model.config.to_dict())
    assert all(parameter.is_meta for parameter in network.parameters())
    everything = sum(p.numel() for p in model.parameters())
    vision = sum(p.numel() for p in model.model.visual.parameters())
    assert count_parameters(network) == trained_parameters(network, plain()) == everything
    assert trained_parameters(network, plain(freeze_vision=True)) == everything - vision
    encoder = load_checkpoint(folder / "model", "cpu").encoder
    for number, target_modules in enumerate([Lora().target_modules, ["q_proj", "mlp.down_proj"]]):
        lora = Lora(r=4, target_modules=target_modules)
        adapted = add_adapters(make(tied=tied), lora, encoder, number)
        adapters = sum(p.numel() for name, p in adapted.named_parameters() if "lora_" in name)
        assert trained_parameters(network, plain(lora=lora.model_dump())) == adapters


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl"])
def test_activations_are_what_autograd_keeps(folder: Path, tmp_path: Path, family: str) -> None:
    """Counted tensor by tensor."""
    checkpoint = load_checkpoint(make_model(tmp_path / "model", family), "cpu")
    recipe = recipe_for(folder)
    maker = example_maker(recipe, checkpoint, recipe.max_target_length)
    row = read_sources(recipe.data, recipe.row_fields, recipe.video_root)[0].rows[0]
    example = maker.example("rows", row, row.video_path(folder / "data"))
    batch = target_batch([example] * 4, checkpoint.encoder.pad_id)
    clips = batch.clip_inputs([example.patches] * 4)
    known = {p.untyped_storage().data_ptr() for p in checkpoint.model.parameters()}
    kept: dict[int, Any] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        token_log_probs(checkpoint.model.train(), batch, clips).mean()
    found = sum(storage.nbytes() for storage in kept.values())
    visual = int(example.prompt.trunk.visual.sum())
    step = StepShape(4, example.tokens, visual, len(batch.labels) // 4)
    memory = estimate(checkpoint.model, recipe, ONE_GPU, step)
    # Of the logits' memory only the log-softmax is kept; the rest comes and goes.
    assert memory["activations"] + memory["logits"] / 5 == pytest.approx(found, rel=0.1)


def test_splitting_divides_what_it_says() -> None:
    network, everything = published("qwen2-vl-7b"), 8_291_375_616
    whole = estimate(network, plain(), ONE_GPU, STEP)
    assert (whole["weights"], whole["optimizer"]) == (everything * 4, everything * 8)
    recipe = plain(dtype="bfloat16", bf16=True)
    for strategy in STRATEGIES:
        one, many = (estimate(network, recipe, Hardware(devices, strategy), STEP) for devices in (1, 8))
        assert one["activations"] == many["activations"]
        assert (many["optimizer"] == one["optimizer"]) == (strategy == "ddp")
        assert (many["weights"] == one["weights"]) == (strategy in ("ddp", "zero2"))
    zero3 = estimate(network, recipe, Hardware(16, "zero3"), STEP)
    assert zero3["optimizer"] == everything * 12 / 16


def test_rollouts_gather_split_weights_and_the_reference_is_split_with_them() -> None:
    network, everything = published("qwen2-vl-7b"), 8_291_375_616
    content = {**plain().model_dump(exclude_unset=True), "dtype": "bfloat16", "bf16": True}
    recipe = parse_recipe(content, GrpoRecipe)
    whole, split = (estimate_rollout(network, recipe, Hardware(8, name), 1000) for name in ("zero2", "zero3"))
    assert (whole["gathered"], split["gathered"]) == (0, everything * 2)
    assert (whole["reference"], split["reference"]) == (everything * 2, everything * 2 / 8)
    assert whole["cache"] == split["cache"] == 2000
    assert sum(split.values()) < sum(whole.values())


def test_what_saves_memory_saves_memory() -> None:
    network, bfloat16 = published("qwen2.5-vl-7b"), {"dtype": "bfloat16", "bf16": True}

    def memory(step: StepShape = STEP, **changes: Any) -> dict[str, float]:
        return estimate(network, plain(**bfloat16, **changes), ONE_GPU, step)

    adapters = memory(lora={"r": 64})
    totals = [
        sum(each.values())
        for each in (memory(gradient_checkpointing=False), memory(), memory(freeze_vision=True), adapters)
    ]
    assert totals == sorted(totals, reverse=True)
    assert len(set(totals)) == 4
    quantised = memory(lora={"r": 64, "load_in_4bit": True})
    # 6.5 B of 8.3 B weights, from two bytes to about half of one.
    assert adapters["weights"] - quantised["weights"] == pytest.approx(6.525e9 * 1.484, rel=0.01)
    assert memory(replace(STEP, rows=2))["activations"] == 2 * memory()["activations"]


def test_logits_are_planned_for_in_the_chunks_that_training_computes() -> None:
    """Some 900 tokens of a published model at a time, however long the targets are and however many the rows."""
    network, vocabulary = published("qwen2-vl-7b"), 152_064
    recipe = plain(dtype="bfloat16", bf16=True)
    one, few, many = (
        estimate(network, recipe, ONE_GPU, replace(STEP, rows=rows, targets=targets))["logits"]
        for rows, targets in ((1, 60), (4, 60), (4, 1536))
    )
    assert few == 4 * one
    # In bfloat16 as computed and its gradient; in float32 the logits, their log-softmax and its gradient.
    assert many == (2**29 // (4 * vocabulary)) * vocabulary * 16


def test_the_logits_of_a_step_fit_into_what_is_planned(folder: Path) -> None:
    """Of rows whose targets stand at different places: no logits of one row are held for the places of another."""
    checkpoint = load_checkpoint(folder / "model", "cpu")
    recipe = recipe_for(folder)
    maker = example_maker(recipe, checkpoint, recipe.max_target_length)
    rows = read_sources(recipe.data, recipe.row_fields, recipe.video_root)[0].rows
    examples = [maker.example("rows", row, row.video_path(folder / "data")) for row in rows[:3]]
    batch = target_batch(examples, checkpoint.encoder.pad_id)
    assert len(batch.inputs["logits_to_keep"]) > max(sum(map(len, example.targets.values())) for example in examples)
    vocabulary = checkpoint.model.config.text_config.vocab_size
    # The weights of the output layer are saved as well, transposed.
    head = checkpoint.model.lm_head.weight.untyped_storage().data_ptr()
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.shape[-1:] == (vocabulary,) and tensor.untyped_storage().data_ptr() != head:
            kept[tensor.untyped_storage().data_ptr()] = tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        token_log_probs(checkpoint.model.train(), batch, batch.clip_inputs([e.patches for e in examples])).mean()
    targets = [sum(map(len, example.targets.values())) for example in examples]
    assert sum(kept.values()) == sum(targets) * vocabulary * 4
    planned = estimate(checkpoint.model, recipe, ONE_GPU, StepShape(3, 1, 0, max(targets)))["logits"]
    assert sum(kept.values()) <= planned / 5


@pytest.mark.parametrize(("changes", "message"), [({"strategy": "zero4"}, "zero4"), ({"devices": 0}, "at least 1")])
def test_impossible_hardware(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        Hardware(**changes)
