from __future__ import annotations

import torch

from experiments.tiny.model import PATCHES, SETTINGS, new_model
from videoreasoner.models.checkpoint import load_checkpoint
from videoreasoner.models.prompt_encoder import PromptEncoder


def test_it_is_the_shipped_architecture_and_settings(encoder: PromptEncoder) -> None:
    shipped, model = load_checkpoint("tiny-base"), new_model(encoder.tokenizer)
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    assert {name: value.shape for name, value in shipped.model.state_dict().items()} == shapes
    assert shipped.settings.changed(training={}) == SETTINGS.changed(training={})
    assert shipped.patches == PATCHES


def test_weights_follow_from_the_seed(encoder: PromptEncoder) -> None:
    one, same, other = (new_model(encoder.tokenizer, seed).lm_head.weight for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
