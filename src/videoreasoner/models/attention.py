"""Attention over packed prompt trees: the trunk by the causal kernel, the nodes behind it by a masked one.

A trunk is plain causal text, and most of a row. One mask over the whole row would take it off the fast causal kernels
(FlashAttention on a GPU), which need no mask and skip what lies above the diagonal. So the mask that `collate` makes
has rows for the tokens behind the trunk alone, and attention is computed in two parts. The result equals that of
the whole mask, up to float rounding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import is_flash_attn_2_available, is_flash_attn_3_available

from videoreasoner.errors import SettingError

NAME = "prompt_tree"
IMPLEMENTATION = {"": "sdpa", "text_config": NAME}
"""`attn_implementation` of a transformers model: ours for text, transformers' own for the vision tower."""


VISION_ATTENTION = ("sdpa", "eager", "flash_attention_2", "flash_attention_3")
"""What the vision tower may compute attention with. Other names would fetch code from the Hugging Face hub."""


def implementation(vision: str) -> dict[str, str]:
    """`attn_implementation` of a transformers model with this attention in its vision tower.

    Raises:
        SettingError: the name is unknown, or its package is not installed.
    """
    if vision not in VISION_ATTENTION:
        raise SettingError(f"attn_implementation {vision[:100]!r}: choose {', '.join(VISION_ATTENTION)}")
    installed = {"flash_attention_2": is_flash_attn_2_available, "flash_attention_3": is_flash_attn_3_available}
    # Without its package, transformers would fetch a kernel from the Hugging Face hub.
    if vision in installed and not installed[vision]():
        raise SettingError(f"attn_implementation {vision}: its package, flash_attn, is not installed; choose sdpa")
    return {**IMPLEMENTATION, "": vision, "vision_config": vision}


def prompt_tree_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """An attention function of transformers that takes masks for the last queries alone.

    Args:
        query: float[B, H, Q, D].
        key, value: float[B, H_kv, K, D].
        attention_mask: bool[B, 1, N, K] for the last N <= Q queries; those before are causal. None: all are.

    Returns:
        float[B, Q, H, D], and no weights.
    """
    causal = 0 if attention_mask is None else query.shape[2] - attention_mask.shape[2]
    if not causal:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    trunk, _ = sdpa_attention_forward(
        module, query[:, :, :causal], key[:, :, :causal], value[:, :, :causal], None, **options
    )
    nodes, _ = sdpa_attention_forward(module, query[:, :, causal:], key, value, attention_mask, **options)
    return torch.cat([trunk, nodes], dim=1), None


# A mask that a caller gives is passed on as it is; this is how transformers makes one where none is given.
ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, sdpa_mask)
ALL_ATTENTION_FUNCTIONS.register(NAME, prompt_tree_attention)
