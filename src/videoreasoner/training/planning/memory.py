"""What a training step holds in the memory of one device, estimated from sizes.

Sources: ZeRO, arXiv 1910.02054 (sections 3 and 5: bytes per parameter and how they are split); Korthikanti et al.,
arXiv 2205.05198 (what a layer keeps for its backward pass), counted again for these models; QLoRA, arXiv 2305.14314.
`docs/training.md` compares the estimate with measured runs.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from torch import nn

from videoreasoner.errors import SettingError
from videoreasoner.models.tree_batch import tokens_at_once
from videoreasoner.training.grpo.recipe import GrpoRecipe
from videoreasoner.training.recipe import Lora, Recipe
from videoreasoner.training.runtime.adapters import UNQUANTISED

STRATEGIES = ("ddp", "zero2", "zero3", "fsdp2")
GB = 1e9
# What a GPU holds beside tensors: the CUDA context and workspaces, and gaps between blocks as a share of all tensors.
OVERHEAD_GB, GAPS = 1.5, 0.05
# NF4 with quantised scales: 4 bits, and 8 + 32/256 bits for each 64 weights.
_BYTES_PER_4BIT_WEIGHT = 0.5 + (1 + 4 / 256) / 64


@dataclass(frozen=True)
class Hardware:
    """What the run is planned for.

    Attributes:
        devices: how many GPUs.
        strategy: one of `STRATEGIES`.
        device_gb: memory of one device.
        rows_per_second: of all devices together, where it is known.

    Raises:
        SettingError: there is no such strategy, or less than one device.
    """

    devices: int = 1
    strategy: str = "ddp"
    device_gb: float = 80.0
    rows_per_second: float | None = None

    @property
    def splits_weights(self) -> bool:
        """Whether a device holds a share of each weight."""
        return self.strategy in ("zero3", "fsdp2")

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise SettingError(f"--strategy {self.strategy}: choose one of {', '.join(STRATEGIES)}")
        if self.devices < 1:
            raise SettingError(f"--devices {self.devices}: give at least 1")


@dataclass(frozen=True)
class StepShape:
    """One forward and backward pass on one device.

    Attributes:
        rows: of the batch.
        tokens: of the longest row; the others are padded to it.
        visual_tokens: of the longest row.
        targets: tokens of a row that the loss is computed of, at most.
    """

    rows: int
    tokens: int
    visual_tokens: int
    targets: int


Memory = dict[str, float]
"""Part -> bytes on one device at the peak of a step."""


def in_use_gb(memory: Memory) -> float:
    """Memory of a device that is taken, by tensors and all else."""
    return sum(memory.values()) / GB * (1 + GAPS) + OVERHEAD_GB


def count_parameters(module: nn.Module) -> int:
    """Parameters of a module; an output layer that is the embedding counts once."""
    return sum(parameter.numel() for parameter in module.parameters())


def trained_parameters(network: Any, recipe: Recipe) -> int:
    """How many parameters have a gradient."""
    if recipe.lora is not None:
        return _adapter_parameters(network, recipe.lora)
    return count_parameters(network) - (count_parameters(network.model.visual) if recipe.freeze_vision else 0)


def _adapter_parameters(network: Any, lora: Lora) -> int:
    # The two rows of the event tokens, which are trained too, are too few to count.
    wanted = lora.target_modules
    if isinstance(wanted, list):
        wanted = rf"(.*\.)?({'|'.join(map(re.escape, wanted))})"
    return lora.r * sum(sum(shape) for name, shape in _linear_layers(network).items() if re.fullmatch(wanted, name))


def _linear_layers(network: Any) -> dict[str, tuple[int, int]]:
    """Name -> (inputs, outputs)."""
    return {n: (m.in_features, m.out_features) for n, m in network.named_modules() if isinstance(m, nn.Linear)}


def kv_width(network: Any) -> int:
    """Numbers per token in the keys of one layer, and as many in its values."""
    return int(network.model.language_model.layers[0].self_attn.k_proj.out_features)


def activation_bytes(recipe: Recipe, hardware: Hardware) -> int:
    """Bytes per number of the forward pass. DeepSpeed and FSDP compute in bfloat16 by our launch profiles."""
    return 2 if recipe.bf16 or hardware.strategy != "ddp" else _weight_bytes(recipe, hardware)


def has_reference(recipe: Recipe) -> bool:
    """Whether a second model is held. With adapters, the reference is the model without them."""
    return isinstance(recipe, GrpoRecipe) and recipe.beta > 0 and recipe.lora is None


def estimate(network: Any, recipe: Recipe, hardware: Hardware, step: StepShape) -> Memory:
    """Memory of one device at the peak of a step.

    Args:
        network: transformers' model on any device, the meta device too.
    """
    size = activation_bytes(recipe, hardware)
    weights, gradients, optimizer = _states(network, recipe, hardware)
    return {
        "weights": weights,
        "gradients": gradients,
        "optimizer": optimizer,
        "activations": _activations(network, recipe, size, step),
        "logits": _logits(network.config.text_config.vocab_size, size, step, hardware.splits_weights),
        "reference": _reference(network, recipe, hardware),
    }


def estimate_rollout(network: Any, recipe: Recipe, hardware: Hardware, cached: int) -> Memory:
    """Memory of one device while it samples completions: the cache, and whole weights where they are split.

    Args:
        cached: numbers in the key-value cache.
    """
    size = activation_bytes(recipe, hardware)
    weights, gradients, optimizer = _states(network, recipe, hardware)
    return {
        "weights": weights,
        # DeepSpeed keeps its share; elsewhere gradients are freed after each step.
        "gradients": gradients if hardware.strategy in ("zero2", "zero3") else 0,
        "optimizer": optimizer,
        "gathered": count_parameters(network) * size if hardware.splits_weights else 0,
        "cache": cached * size,
        "reference": _reference(network, recipe, hardware),
    }


def _reference(network: Any, recipe: Recipe, hardware: Hardware) -> float:
    if not has_reference(recipe):
        return 0
    if hardware.splits_weights:
        # Gathered after the rollout, when the policy's gathered weights are gone.
        return count_parameters(network) * activation_bytes(recipe, hardware) / hardware.devices
    return count_parameters(network) * _weight_bytes(recipe, hardware)


def _weight_bytes(recipe: Recipe, hardware: Hardware) -> int:
    # FSDP keeps trained weights in float32 only.
    is_float32 = recipe.dtype == "float32" or (hardware.strategy == "fsdp2" and recipe.lora is None)
    return 4 if is_float32 else 2


def _states(network: Any, recipe: Recipe, hardware: Hardware) -> tuple[float, float, float]:
    """Bytes of weights, gradients and optimizer."""
    strategy, devices = hardware.strategy, hardware.devices
    size, computed = _weight_bytes(recipe, hardware), activation_bytes(recipe, hardware)
    trained, everything = trained_parameters(network, recipe), count_parameters(network)
    language = network.model.language_model
    layer, embedding = count_parameters(language.layers[0]), count_parameters(language.embed_tokens)
    # Adapters come on top of the model.
    frozen: float = (everything - (0 if recipe.lora else trained)) * size
    if recipe.lora and recipe.lora.load_in_4bit:
        linear = _linear_layers(network).items()
        quantised = sum(math.prod(shape) for name, shape in linear if not name.startswith(UNQUANTISED))
        frozen -= quantised * (size - _BYTES_PER_4BIT_WEIGHT)
    # What is gathered to compute one layer, and the next one ahead of time.
    gathered = 2 * max(layer, embedding) * computed
    if strategy == "zero2":
        return trained * 2 + frozen, trained * 2 / devices, trained * 12 / devices
    if strategy == "zero3":
        return (trained * 2 + frozen) / devices + gathered, trained * 2 / devices, trained * 12 / devices
    if strategy == "fsdp2":
        return (trained * size + frozen) / devices + gathered, trained * size / devices, trained * 2 * size / devices
    # Autocast keeps a bfloat16 copy of every float32 weight until the backward pass is over.
    copies = (everything - embedding) * 2 if computed < size else 0
    # Adapters are float32 whatever the weights are.
    trained_size = 4 if recipe.lora else size
    return trained * trained_size + frozen + copies, trained * trained_size, trained * 2 * trained_size


def _activations(network: Any, recipe: Recipe, size: int, step: StepShape) -> float:
    text, visual = network.config.text_config, network.model.visual
    mlp = [module for module in visual.blocks[0].mlp.modules() if isinstance(module, nn.Linear)]
    vision_layers, vision_width = len(visual.blocks), visual.patch_embed.proj.out_channels
    tokens = step.rows * step.tokens
    patches = step.rows * step.visual_tokens * network.config.vision_config.spatial_merge_size**2
    # One token in one layer: both norms in float32; queries, keys, values before and after rotation, spread over all
    # heads; the output of attention; the four wide tensors of the MLP; the residual stream.
    layer = 16 * text.hidden_size + size * (7 * text.hidden_size + 2 * kv_width(network) + 4 * text.intermediate_size)
    # One patch in one block likewise: of its MLP, the output of every wide layer and what the activation keeps.
    block = 8 * vision_width + size * (9 * vision_width + (len(mlp) + 1) * mlp[0].out_features)
    has_backward = not (recipe.freeze_vision or recipe.lora)
    if recipe.gradient_checkpointing:
        inputs = tokens * text.num_hidden_layers * text.hidden_size * size
        block_inputs = patches * vision_layers * vision_width * size if has_backward else 0
        # One layer at a time: first of the text, then, with its inputs freed, of the vision tower.
        held = block_inputs + max(inputs + tokens * layer, patches * block)
    else:
        held = tokens * text.num_hidden_layers * layer + (patches * vision_layers * block if has_backward else 0)
    pixels = patches * visual.patch_embed.proj.weight[0].numel() * (4 + size)
    # The ancestor mask of all tokens behind the clip: one byte, and once more as the number that attention adds.
    mask = step.rows * (step.tokens - step.visual_tokens) * step.tokens * (1 + size)
    return held + pixels + mask


def _logits(vocabulary: int, size: int, step: StepShape, has_split_weights: bool) -> float:
    # The head is computed for a limited number of tokens at a time, except where its weights are split. Each logit is
    # held as computed, with its gradient, and in float32 as itself, its log-softmax and that one's gradient.
    targets = step.rows * step.targets
    at_once = targets if has_split_weights else min(targets, tokens_at_once(vocabulary))
    return at_once * vocabulary * (2 * size + 12)
