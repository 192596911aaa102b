"""The architecture, prompts and settings of the tiny model: a real Qwen2-VL of 1.3 M parameters."""

from __future__ import annotations

from typing import Any

import torch
from transformers import Qwen2Tokenizer, Qwen2VLConfig, Qwen2VLForConditionalGeneration

from videoreasoner.models.attention import IMPLEMENTATION
from videoreasoner.prompts import Prompts
from videoreasoner.settings import Settings
from videoreasoner.tasks import Task
from videoreasoner.video.patches import PatchSettings

_PIXELS = 32 * 32
_HIDDEN = 128
# Smaller initial weights do not learn colours.
_INITIAL = {"initializer_range": 0.05}

PROMPTS = Prompts(
    system="Watch the video.",
    instruction="",
    options_header="",
    # A model of this size cannot learn to name an option by its letter, but it can say the word.
    answer_style="words",
    prefixes={
        Task.EVENT: "I want to locate the key event in the video. ",
        Task.KEY_ELEMENTS: "I want to output the key elements:",
        Task.ANSWER: "The answer is:",
    },
    # As the shipped checkpoints were trained; see `Settings.load`.
    prefix_keeps_space=True,
)
SETTINGS = Settings(
    frame_budget=32,
    # The model is trained on 32 frames of videos of any length, so short videos get 32 frames, too.
    sparse_rate_fps=8.0,
    min_pixels=_PIXELS,
    max_pixels=_PIXELS,
    encoder="tiny-encoder",
    retrieval_rate_fps=2.0,
    max_new_tokens=48,
    prompts=PROMPTS,
)
PATCHES = PatchSettings(
    patch_size=8,
    min_pixels=_PIXELS,
    max_pixels=_PIXELS,
    image_mean=(0.3, 0.3, 0.3),
    image_std=(0.3, 0.3, 0.3),
)


def new_model(tokenizer: Qwen2Tokenizer, seed: int = 0) -> Any:
    """A Qwen2-VL with random weights."""
    ids: Any = tokenizer.convert_tokens_to_ids
    # The signature of the class does not list the fields that all configurations have.
    common: dict[str, Any] = {**_INITIAL, "attn_implementation": IMPLEMENTATION}
    config = Qwen2VLConfig(
        text_config={
            "vocab_size": 512,
            "hidden_size": _HIDDEN,
            "intermediate_size": 3 * _HIDDEN,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "max_position_embeddings": 8192,
            "bos_token_id": ids("<|endoftext|>"),
            "eos_token_id": ids("<|im_end|>"),
            "rope_parameters": {"rope_type": "default", "rope_theta": 1000.0, "mrope_section": [8, 4, 4]},
            **_INITIAL,
        },
        vision_config={
            "depth": 2,
            "embed_dim": 96,
            "hidden_size": _HIDDEN,
            "num_heads": 4,
            "mlp_ratio": 3,
            "patch_size": PATCHES.patch_size,
            **_INITIAL,
        },
        video_token_id=ids("<|video_pad|>"),
        image_token_id=ids("<|image_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
        tie_word_embeddings=True,
        **common,
    )
    torch.manual_seed(seed)
    model = Qwen2VLForConditionalGeneration(config)
    model.generation_config.eos_token_id = ids("<|im_end|>")
    model.generation_config.pad_token_id = ids("<|endoftext|>")
    return model
