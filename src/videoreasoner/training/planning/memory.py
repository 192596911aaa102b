"""What a training step holds in memory, estimated from shapes. Pure.

Sources: ZeRO, arXiv 1910.02054 (sections 3 and 5: bytes a parameter and how they are split); Korthikanti et al.,
arXiv 2205.05198 (what a layer keeps for its backward pass), counted anew for these models; QLoRA, arXiv 2305.14314.
`docs/training.md` compares the estimate with what runs took.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from videoreasoner.training.planning.shapes import ModelShape

Strategy = Literal["ddp", "zero2", "zero3", "fsdp2"]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)

GB = 1e9
# NF4 with its scales quantised as well: 4 bits, and 8 + 32/256 bits for each 64 weights.
_BYTES_A_4BIT_WEIGHT = 0.5 + (1 + 4 / 256) / 64


@dataclass(frozen=True)
class Precision:
    """Bytes of weights, and whether the forward pass is computed in bfloat16 beside float32 weights."""

    weight_bytes: int
    is_mixed: bool

    @property
    def activation_bytes(self) -> int:
        return 2 if self.is_mixed else self.weight_bytes


@dataclass(frozen=True)
class StepShape:
    """One forward and backward pass on one device.

    Attributes:
        rows: trees in the batch.
        tokens: of the longest row; the others are padded to it.
        visual_tokens: of the longest row.
        targets: positions of the longest row whose logits are computed.
    """

    rows: int
    tokens: int
    visual_tokens: int
    targets: int


@dataclass(frozen=True)
class Method:
    """What is trained, and how it is spread.

    Attributes:
        devices: how many.
        adapter_rank: of LoRA; 0 trains everything.
        is_4bit: QLoRA.
        has_frozen_vision: whether the vision tower is left as it is.
        recomputes: gradient checkpointing.
    """

    strategy: Strategy
    devices: int
    precision: Precision
    adapter_rank: int = 0
    is_4bit: bool = False
    has_frozen_vision: bool = False
    recomputes: bool = True


@dataclass(frozen=True)
class Memory:
    """Bytes on one device."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    logits: float

    @property
    def total(self) -> float:
        return self.weights + self.gradients + self.optimizer + self.activations + self.logits

    def parts(self) -> dict[str, float]:
        return {name: getattr(self, name) for name in ("weights", "gradients", "optimizer", "activations", "logits")}


def trained_parameters(shape: ModelShape, method: Method) -> int:
    """How many parameters have a gradient."""
    if method.adapter_rank:
        return shape.text.adapters(method.adapter_rank)
    return shape.text.parameters + (0 if method.has_frozen_vision else shape.vision.parameters)


def estimate(shape: ModelShape, method: Method, step: StepShape) -> Memory:
    """Memory of one device at the peak of a step."""
    weights, gradients, optimizer = _states(shape, method)
    return Memory(weights, gradients, optimizer, _activations(shape, method, step), _logits(shape, method, step))


def _states(shape: ModelShape, method: Method) -> tuple[float, float, float]:
    trained, split = trained_parameters(shape, method), method.devices
    size, is_mixed = method.precision.weight_bytes, method.precision.is_mixed
    frozen = (shape.parameters - trained) * size if not method.adapter_rank else _frozen(shape, method)
    # What is gathered to compute one layer, and the next one ahead of time.
    gathered = 2 * max(shape.text.layer, shape.text.embedding) * method.precision.activation_bytes
    if method.strategy == "zero2":
        return trained * 2 + frozen, trained * 2 / split, trained * 12 / split
    if method.strategy == "zero3":
        return (trained * 2 + frozen) / split + gathered, trained * 2 / split, trained * 12 / split
    if method.strategy == "fsdp2":
        return (trained * size + frozen) / split + gathered, trained * size / split, trained * 2 * size / split
    # Autocast keeps a copy of every weight it has cast until the backward pass is over.
    copies = (shape.parameters - shape.text.embedding) * 2 if is_mixed and size == 4 else 0
    # Adapters are float32 whatever the weights are.
    trained_size = 4 if method.adapter_rank else size
    return trained * trained_size + frozen + copies, trained * trained_size, trained * 2 * trained_size


def _frozen(shape: ModelShape, method: Method) -> float:
    size = method.precision.weight_bytes
    if not method.is_4bit:
        return shape.parameters * size
    quantised = shape.text.layers * shape.text.layer_linear
    return quantised * _BYTES_A_4BIT_WEIGHT + (shape.parameters - quantised) * size


def _activations(shape: ModelShape, method: Method, step: StepShape) -> float:
    size = method.precision.activation_bytes
    text, vision = shape.text, shape.vision
    tokens = step.rows * step.tokens
    patches = step.rows * step.visual_tokens * vision.merge_size**2
    # Of one token in one layer: both norms in float32; queries, keys, values before and after rotation, spread over all
    # heads; what attention gives; the four wide tensors of the MLP; the residual stream.
    layer = 16 * text.hidden + size * (7 * text.hidden + 2 * text.kv_width + 4 * text.intermediate)
    wide = 3 if vision.is_gated else 2
    block = 8 * vision.width + size * (9 * vision.width + (wide + 1) * vision.intermediate)
    has_backward = not (method.has_frozen_vision or method.adapter_rank)
    if method.recomputes:
        inputs = tokens * text.layers * text.hidden * size
        seen = patches * vision.depth * vision.width * size if has_backward else 0
        # One layer at a time: first of the text, then, with its inputs gone, of the vision tower.
        held = seen + max(inputs + tokens * layer, patches * block)
    else:
        held = tokens * text.layers * layer + (patches * vision.depth * block if has_backward else 0)
    pixels = patches * vision.patch_values * (4 + size)
    # The ancestor mask of all tokens behind the clip, as it comes, and as attention adds it.
    mask = step.rows * (step.tokens - step.visual_tokens) * step.tokens * (1 + size)
    return held + pixels + mask


def _logits(shape: ModelShape, method: Method, step: StepShape) -> float:
    size = method.precision.activation_bytes
    # As computed, picked, in float32, the log-softmax, and its gradient.
    return step.rows * step.targets * shape.text.vocabulary * (2 * size + 12)
