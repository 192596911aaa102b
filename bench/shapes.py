"""Random checkpoints in the shapes of published ones, for timing: the weights mean nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import processors
from transformers import (
    CLIPConfig,
    CLIPModel,
    PreTrainedTokenizerFast,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
)

from experiments.tiny.vocabulary import learn_tokenizer
from videoreasoner.models.checkpoint import save_checkpoint
from videoreasoner.models.event_tokens import extend_tokenizer
from videoreasoner.prompts import Prompts
from videoreasoner.settings import Settings
from videoreasoner.training.planning.model import PUBLISHED
from videoreasoner.video.patches import PatchSettings

SHAPES: dict[str, dict[str, Any]] = {
    "small": {
        "tie_word_embeddings": True,
        "text_config": {
            "hidden_size": 640,
            "num_hidden_layers": 12,
            "num_attention_heads": 10,
            "num_key_value_heads": 2,
            "intermediate_size": 1920,
            "vocab_size": 1024,
        },
        "vision_config": {"depth": 8, "embed_dim": 384, "hidden_size": 640, "mlp_ratio": 4},
    },
    "2b": PUBLISHED["qwen2-vl-2b"],
    "7b": PUBLISHED["qwen2-vl-7b"],
}
_VISION_HEADS = {384: 6, 1280: 16}


def save_random_checkpoint(out: Path, shape: dict[str, Any]) -> Path:
    """Write the checkpoint unless it is there already; returns its folder.

    Args:
        shape: one of `SHAPES`, the sizes in a config.json.
    """
    text, vision, is_tied = shape["text_config"], shape["vision_config"], shape["tie_word_embeddings"]
    folder = out / f"random-{text['hidden_size']}-{text['num_hidden_layers']}"
    if (folder / "videoreasoner.json").is_file():
        return folder
    tokenizer = learn_tokenizer(Prompts())
    extend_tokenizer(tokenizer)
    ids = tokenizer.convert_tokens_to_ids
    half = text["hidden_size"] // text["num_attention_heads"] // 2
    config = Qwen2VLConfig(
        text_config={
            **text,
            "max_position_embeddings": 32768,
            "bos_token_id": ids("<|endoftext|>"),
            "eos_token_id": ids("<|im_end|>"),
            "tie_word_embeddings": is_tied,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e6,
                "mrope_section": [half // 4, (half - half // 4) // 2, (half - half // 4) // 2],
            },
        },
        vision_config={**vision, "num_heads": _VISION_HEADS[vision["embed_dim"]]},
        image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
        tie_word_embeddings=is_tied,
    )
    torch.manual_seed(0)
    default = torch.get_default_dtype()
    # A 7B model in float32 would not leave room for anything else.
    torch.set_default_dtype(torch.bfloat16 if text["num_hidden_layers"] > 12 else default)
    try:
        model = Qwen2VLForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(default)
    model.generation_config.eos_token_id = ids("<|im_end|>")
    model.generation_config.pad_token_id = ids("<|endoftext|>")
    save_checkpoint(folder, model, tokenizer, Settings(), PatchSettings())
    return folder


def save_random_clip(out: Path) -> Path:
    """Write a CLIP with a narrow, shallow ViT/32 for images unless it is there already; returns its folder.

    Beside the model `small` it still costs several times what a ViT-B/32 costs beside a model of 7 B parameters.
    """
    folder = out / "random-clip"
    if (folder / "preprocessor_config.json").is_file():
        return folder
    words = learn_tokenizer(Prompts()).backend_tokenizer
    end = words.token_to_id("<|endoftext|>")
    words.post_processor = processors.TemplateProcessing(
        single="$A <|endoftext|>", special_tokens=[("<|endoftext|>", end)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token="<|endoftext|>", pad_token="<|im_end|>", model_max_length=77
    )
    tower = {"hidden_size": 192, "intermediate_size": 768, "num_attention_heads": 3}
    text = {
        "num_hidden_layers": 4,
        "vocab_size": 1024,
        "max_position_embeddings": 77,
        "eos_token_id": end,
        "bos_token_id": end,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {"num_hidden_layers": 6, "image_size": 224, "patch_size": 32}
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(text_config={**tower, **text}, vision_config={**tower, **vision}, projection_dim=192))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    processor = {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": 224},
        "crop_size": {"height": 224, "width": 224},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder
