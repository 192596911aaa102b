"""Adapters: what is trained, what every start draws, what merging gives, and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.quantizers.quantizers_utils import should_convert_module

from tests.models.tiny_models import random_qwen2_5_vl, random_qwen2_vl
from tests.training.toy import make_data, make_model, recipe_content
from videoreasoner.errors import MissingExtraError, SettingError
from videoreasoner.models.checkpoint import load_checkpoint
from videoreasoner.tasks import EVENT_TOKENS
from videoreasoner.training.recipe import ColdStartRecipe, Lora, parse_recipe
from videoreasoner.training.runtime.adapters import UNQUANTISED, add_adapters, merged_model, quantisation


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("adapters")
    make_model(made / "model")
    make_data(made / "data", videos=1)
    return made


def trainable(model: Any) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("tied", [True, False])
def test_low_rank_adapters_and_two_rows_of_the_vocabulary_are_trained(folder: Path, tied: bool) -> None:
    encoder = load_checkpoint(folder / "model", "cpu").encoder
    model = random_qwen2_vl(tied=tied)
    width = model.config.text_config.hidden_size
    adapted = add_adapters(model, Lora(r=4), encoder, 0)
    tokens = {name: p for name, p in trainable(adapted).items() if "lora_" not in name}
    assert sum(p.numel() for p in tokens.values()) == len(EVENT_TOKENS) * width * (1 if tied else 2)
    assert not [name for name in trainable(adapted) if "visual" in name]


def test_every_start_draws_the_same_adapters_and_leaves_the_random_state_alone(folder: Path) -> None:
    encoder = load_checkpoint(folder / "model", "cpu").encoder
    state = torch.get_rng_state()
    first, again, other = (trainable(add_adapters(random_qwen2_vl(), Lora(r=4), encoder, seed)) for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)
    model = random_qwen2_vl()
    torch.set_rng_state(state)
    expected = torch.rand(1)
    torch.set_rng_state(state)
    add_adapters(model, Lora(r=4), encoder, 3)
    assert torch.equal(torch.rand(1), expected)


def test_merged_weights_compute_what_base_and_adapters_compute(folder: Path, tmp_path: Path) -> None:
    recipe = parse_recipe(recipe_content(folder, folder / "data" / "plain.jsonl", lora={"r": 4}), ColdStartRecipe)
    checkpoint = load_checkpoint(folder / "model", "cpu")
    adapted = add_adapters(checkpoint.model, recipe.lora, checkpoint.encoder, 0)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn_like(parameter)
    adapted.save_pretrained(tmp_path / "adapter")
    merged = merged_model(recipe, tmp_path / "adapter").eval()
    base = load_checkpoint(folder / "model", "cpu").model
    ids = torch.tensor([[5, 6, 7, checkpoint.encoder.ids[EVENT_TOKENS[0]]]])
    with torch.inference_mode():
        expected = adapted.eval()(input_ids=ids).logits
        assert torch.allclose(merged(input_ids=ids).logits, expected, atol=1e-5)
        assert not torch.allclose(base(input_ids=ids).logits, expected, atol=1e-3)


def test_layers_that_do_not_exist_are_named(folder: Path) -> None:
    checkpoint = load_checkpoint(folder / "model", "cpu")
    with pytest.raises(SettingError, match=r"lora: .*no_such_layer"):
        add_adapters(checkpoint.model, Lora(target_modules=["no_such_layer"]), checkpoint.encoder, 0)


def test_without_peft_the_extra_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = load_checkpoint(folder / "model", "cpu")
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingExtraError, match=r"lora: needs peft; .*videoreasoner\[lora\]"):
        add_adapters(checkpoint.model, Lora(), checkpoint.encoder, 0)


def test_quantisation_needs_a_gpu_and_bitsandbytes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert quantisation(None) is None
    assert quantisation(Lora()) is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SettingError, match=r"lora\.load_in_4bit: needs a GPU"):
        quantisation(Lora(load_in_4bit=True))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(MissingExtraError, match="needs bitsandbytes"):
        quantisation(Lora(load_in_4bit=True))


@pytest.mark.parametrize("make", [random_qwen2_vl, random_qwen2_5_vl])
def test_quantised_adapters_leave_the_vision_tower_and_the_output_layer_as_they_are(make: Any) -> None:
    linear = {name for name, module in make(tied=False).named_modules() if isinstance(module, torch.nn.Linear)}
    quantised = {name for name in linear if should_convert_module(name, list(UNQUANTISED))}
    assert quantised
    assert linear - quantised == {name for name in linear if "visual" in name or name == "lm_head"}
