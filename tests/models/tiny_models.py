"""Stock models with random weights, small enough for exact comparisons in fp32."""

from __future__ import annotations

import copy
import functools
from typing import Any

import torch
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
)

from experiments.tiny.vocabulary import learn_tokenizer
from videoreasoner.models.attention import IMPLEMENTATION
from videoreasoner.prompts import Prompts
from videoreasoner.tasks import EVENT_TOKENS

HIDDEN = 64
# Room beyond the tokenizer, as in the published checkpoints.
PADDED_VOCABULARY = 576


@functools.cache
def _learned() -> Qwen2Tokenizer:
    return learn_tokenizer(Prompts())


def tokenizer(event_tokens: bool = True) -> Qwen2Tokenizer:
    """A tokenizer of one's own: tests may add tokens to it."""
    made = copy.deepcopy(_learned())
    if event_tokens:
        made.add_special_tokens({"additional_special_tokens": list(EVENT_TOKENS)}, replace_extra_special_tokens=False)
    return made


def _configuration(vocab_size: int, tied: bool, head_width: int) -> dict:
    heads = HIDDEN // head_width
    ids = tokenizer().convert_tokens_to_ids
    return {
        "text_config": {
            "vocab_size": vocab_size,
            "hidden_size": HIDDEN,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": heads,
            "num_key_value_heads": heads // 2,
            "max_position_embeddings": 4096,
            "bos_token_id": ids("<|endoftext|>"),
            "eos_token_id": ids("<|im_end|>"),
            "pad_token_id": ids("<|endoftext|>"),
            # Large weights, so that every token and patch has a say in the results.
            "initializer_range": 0.2,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [head_width // 8, head_width * 3 // 16, head_width * 3 // 16],
            },
            "tie_word_embeddings": tied,
        },
        "image_token_id": ids("<|image_pad|>"),
        "video_token_id": ids("<|video_pad|>"),
        "vision_start_token_id": ids("<|vision_start|>"),
        "vision_end_token_id": ids("<|vision_end|>"),
        "tie_word_embeddings": tied,
        "attn_implementation": IMPLEMENTATION,
    }


def random_qwen2_vl(
    vocab_size: int = PADDED_VOCABULARY, tied: bool = True, head_width: int = 16
) -> Qwen2VLForConditionalGeneration:
    torch.manual_seed(0)
    vision = {"depth": 2, "embed_dim": 32, "hidden_size": HIDDEN, "num_heads": 2, "mlp_ratio": 2}
    config = Qwen2VLConfig(**_configuration(vocab_size, tied, head_width), vision_config=vision)
    return Qwen2VLForConditionalGeneration(config).eval()


def random_qwen2_5_vl(
    vocab_size: int = PADDED_VOCABULARY, tied: bool = True, head_width: int = 16
) -> Qwen2_5_VLForConditionalGeneration:
    torch.manual_seed(0)
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "out_hidden_size": HIDDEN,
        "intermediate_size": 64,
        "num_heads": 2,
        # Two merged tokens a side: clips in tests span several windows.
        "window_size": 56,
        "fullatt_block_indexes": [1],
        "tokens_per_second": 2,
    }
    config = Qwen2_5_VLConfig(**_configuration(vocab_size, tied, head_width), vision_config=vision)
    return Qwen2_5_VLForConditionalGeneration(config).eval()


def recompute_activations(model: Any) -> None:
    """Switch activation checkpointing on, under the name that the installed transformers has for it."""
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})
