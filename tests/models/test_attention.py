import copy

import pytest
import torch

from tests.models.test_prompt_tree import FAMILIES, ONE_CLIP, TWO_CLIPS, video_tree
from tests.models.tiny_models import recompute_activations, tokenizer
from videoreasoner.models.attention import IMPLEMENTATION
from videoreasoner.models.prompt_tree import collate

GRIDS = [ONE_CLIP, TWO_CLIPS, [[1, 4, 4]]]


def batch_of(family):
    """Three trees whose trunks differ in length, and their clips."""
    made = [video_tree(family, seed, grids) for seed, grids in enumerate(GRIDS)]
    batch = collate([tree.pack() for tree, _, _ in made], tokenizer().pad_token_id)
    clips = {
        "pixel_values_videos": torch.cat([patches for _, patches, _ in made]),
        "video_grid_thw": torch.cat([grid for _, _, grid in made]),
    }
    return batch, clips


def whole_mask(batch):
    mask = batch["attention_mask"]
    rows, _, counted, length = mask.shape
    causal = torch.ones(rows, 1, length - counted, length, dtype=torch.bool).tril()
    return {**batch, "attention_mask": torch.cat([causal, mask], dim=2)}


def logits_and_gradients(model, batch, clips):
    model.zero_grad()
    logits = model(**batch, **clips, use_cache=False).logits
    (logits * torch.linspace(-1.0, 1.0, logits.numel()).view_as(logits)).sum().backward()
    return logits.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_two_parts_equal_one_mask_of_stock_attention(family, checkpointing):
    ours = FAMILIES[family]()
    stock = copy.deepcopy(ours)
    stock.set_attn_implementation("sdpa")
    batch, clips = batch_of(family)
    assert batch["input_ids"].shape[1] - batch["attention_mask"].shape[2] == 10
    if checkpointing:
        recompute_activations(ours.train())
    logits, gradients = logits_and_gradients(ours, batch, clips)
    expected, theirs = logits_and_gradients(stock, whole_mask(batch), clips)
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)
    for name, gradient in gradients.items():
        assert (gradient - theirs[name]).norm() <= 1e-5 * theirs[name].norm(), name


@pytest.mark.parametrize("family", FAMILIES)
def test_stock_attention_refuses_a_mask_of_the_last_tokens(family):
    model = FAMILIES[family]()
    model.set_attn_implementation("sdpa")
    batch, clips = batch_of(family)
    with pytest.raises(RuntimeError, match="must match"):
        model(**batch, **clips, use_cache=False)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_mask_of_all_tokens_and_none_at_all_mean_what_they_always_did(family):
    model = FAMILIES[family]()
    generator = torch.Generator().manual_seed(0)
    inputs = {
        "input_ids": torch.randint(20, 480, (2, 9), generator=generator),
        "position_ids": torch.arange(9).expand(3, 2, 9),
    }
    stock = copy.deepcopy(model)
    stock.set_attn_implementation("sdpa")
    padded = torch.tensor([[0, 0, *[1] * 7], [1] * 9])
    some = torch.rand(2, 1, 9, 9, generator=generator) < 0.5
    for mask in (None, padded, some | torch.eye(9, dtype=torch.bool)):
        with torch.no_grad():
            found, expected = (m(**inputs, attention_mask=mask, use_cache=False).logits for m in (model, stock))
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_folder_does_not_know_of_it(family, tmp_path):
    model = FAMILIES[family]()
    text = model.model.language_model.config
    assert text._attn_implementation == IMPLEMENTATION["text_config"] == "prompt_tree"
    assert model.model.visual.config._attn_implementation == "sdpa"
    model.save_pretrained(tmp_path)
    assert "prompt_tree" not in (tmp_path / "config.json").read_text()
