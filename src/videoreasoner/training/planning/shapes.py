"""Sizes of models: from a config.json, or by name for the published ones. Pure; no weights are needed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class TextShape:
    """The language model. Widths are in numbers a token."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    vocabulary: int
    is_tied: bool

    @property
    def kv_width(self) -> int:
        return self.hidden // self.heads * self.kv_heads

    @property
    def layer_linear(self) -> int:
        """Weights of one layer's linear maps, biases apart: what is quantised under adapters."""
        return 2 * self.hidden * (self.hidden + self.kv_width) + 3 * self.hidden * self.intermediate

    @property
    def layer(self) -> int:
        """Parameters of one layer."""
        return self.layer_linear + self.hidden + 2 * self.kv_width + 2 * self.hidden

    @property
    def embedding(self) -> int:
        return self.vocabulary * self.hidden

    @property
    def parameters(self) -> int:
        return self.layers * self.layer + self.embedding * (1 if self.is_tied else 2) + self.hidden

    def adapters(self, rank: int) -> int:
        """Parameters of adapters on every linear map of every layer."""
        both = 4 * self.hidden + 2 * (self.hidden + self.kv_width) + 3 * (self.hidden + self.intermediate)
        # q and o map hidden to hidden, k and v hidden to kv_width, the three of the MLP hidden to intermediate.
        return self.layers * rank * both


@dataclass(frozen=True)
class VisionShape:
    """The vision tower. `is_gated` tells Qwen2.5-VL's blocks from Qwen2-VL's."""

    width: int
    depth: int
    intermediate: int
    is_gated: bool
    out: int
    patch_size: int = 14
    merge_size: int = 2

    @property
    def patch_values(self) -> int:
        """Numbers in one patch: two frames of RGB."""
        return 3 * 2 * self.patch_size**2

    @property
    def block(self) -> int:
        """Parameters of one block."""
        attention = 4 * self.width**2 + 4 * self.width
        if self.is_gated:
            mlp = 3 * self.width * self.intermediate + 2 * self.intermediate + self.width
            return attention + mlp + 2 * self.width
        return attention + 2 * self.width * self.intermediate + self.intermediate + self.width + 4 * self.width

    @property
    def parameters(self) -> int:
        merged = self.width * self.merge_size**2
        merger = merged**2 + merged + merged * self.out + self.out + self.width * (1 if self.is_gated else 2)
        return self.patch_values * self.width + self.depth * self.block + merger


@dataclass(frozen=True)
class ModelShape:
    text: TextShape
    vision: VisionShape

    @property
    def parameters(self) -> int:
        return self.text.parameters + self.vision.parameters


def _qwen2_vl(text: TextShape) -> ModelShape:
    return ModelShape(text, VisionShape(1280, 32, 5120, False, text.hidden))


def _qwen2_5_vl(text: TextShape) -> ModelShape:
    return ModelShape(text, VisionShape(1280, 32, 3420, True, text.hidden))


# The numbers of the published configurations.
PUBLISHED: dict[str, ModelShape] = {
    "qwen2-vl-2b": _qwen2_vl(TextShape(1536, 28, 12, 2, 8960, 151936, True)),
    "qwen2-vl-7b": _qwen2_vl(TextShape(3584, 28, 28, 4, 18944, 152064, False)),
    "qwen2.5-vl-3b": _qwen2_5_vl(TextShape(2048, 36, 16, 2, 11008, 151936, True)),
    "qwen2.5-vl-7b": _qwen2_5_vl(TextShape(3584, 28, 28, 4, 18944, 152064, False)),
}


def published_shape(name: str) -> ModelShape | None:
    """The shape of a published model by its id, such as Qwen/Qwen2-VL-7B-Instruct; None for any other."""
    return PUBLISHED.get(name.rpartition("/")[2].lower().removesuffix("-instruct"))


def like_published(name: str) -> str | None:
    """The published model that the last part of a path begins with: `out/qwen2-vl-2b-lora` is like qwen2-vl-2b."""
    last = name.rpartition("/")[2].lower()
    return next((key for key in PUBLISHED if last == key or last.startswith(f"{key}-")), None)


def config_shape(config: dict[str, Any]) -> ModelShape:
    """The shape that a config.json states, in transformers' old flat layout or the new one."""
    text = {**config, **config.get("text_config", {})}
    vision = config["vision_config"]
    tied = config.get("tie_word_embeddings", text.get("tie_word_embeddings", False))
    is_gated = config["model_type"] == "qwen2_5_vl"
    width = vision["hidden_size"] if is_gated else vision["embed_dim"]
    return ModelShape(
        TextShape(
            text["hidden_size"],
            text["num_hidden_layers"],
            text["num_attention_heads"],
            text["num_key_value_heads"],
            text["intermediate_size"],
            text["vocab_size"],
            tied,
        ),
        VisionShape(
            width,
            vision["depth"],
            vision["intermediate_size"] if is_gated else int(width * vision["mlp_ratio"]),
            is_gated,
            text["hidden_size"],
            vision.get("patch_size", 14),
            vision.get("spatial_merge_size", 2),
        ),
    )
