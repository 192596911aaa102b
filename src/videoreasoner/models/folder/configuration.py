"""`config.json` and `generation_config.json`: read as plain data, checked, and cut down to what decides a model.

Only the fields below reach transformers. Its other fields change the form of outputs (`return_dict`), belong to other
tasks (`num_labels`, of which a billion fills the memory) or load code (`auto_map`, and an `_attn_implementation` that
names a repository).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from huggingface_hub.errors import StrictDataclassError
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from videoreasoner.errors import CheckpointError
from videoreasoner.utils.files import read_json
from videoreasoner.utils.validation import explain

FAMILIES = {
    "qwen2_vl": "Qwen2VLForConditionalGeneration",
    "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration",
}
ENCODER_FAMILIES = ("clip", "siglip", "siglip2")

# Far above every model that there is, and far below what fills a machine.
Size = Annotated[int, Field(ge=1, le=2**20)]
Layers = Annotated[int, Field(ge=1, le=1024)]
Patch = Annotated[int, Field(ge=1, le=256)]
Small = Annotated[float, Field(gt=0, le=1)]
Share = Annotated[float, Field(ge=0, lt=1)]
TokenId = Annotated[int, Field(ge=0, lt=2**24)]
Vocabulary = Annotated[int, Field(ge=1, le=2**24)]
Base = Annotated[float, Field(gt=0, le=1e12)]
Factor = Annotated[float, Field(gt=0, le=1e6)]

_NULLABLE = frozenset({"sliding_window", "bos_token_id", "eos_token_id", "pad_token_id"})


class _Checked(BaseModel):
    # Not "forbid": the folders of others hold many fields that decide nothing here.
    model_config = ConfigDict(extra="ignore", strict=True, frozen=True, allow_inf_nan=False)


class _Rope(_Checked):
    type: Literal["default", "mrope", "linear", "dynamic", "yarn", "axial"] | None = None
    rope_type: Literal["default", "mrope", "linear", "dynamic", "yarn", "axial"] | None = None
    rope_theta: Base | None = None
    mrope_section: Annotated[list[Annotated[int, Field(ge=0, le=1024)]], Field(min_length=3, max_length=3)] | None = (
        None
    )
    factor: Factor | None = None
    original_max_position_embeddings: Vocabulary | None = None
    attention_factor: Factor | None = None
    beta_fast: Factor | None = None
    beta_slow: Factor | None = None


class _Text(_Checked):
    vocab_size: Vocabulary | None = None
    hidden_size: Size | None = None
    intermediate_size: Size | None = None
    num_hidden_layers: Layers | None = None
    num_attention_heads: Layers | None = None
    num_key_value_heads: Layers | None = None
    hidden_act: str | None = None
    max_position_embeddings: Vocabulary | None = None
    initializer_range: Annotated[float, Field(ge=0, le=10)] | None = None
    rms_norm_eps: Small | None = None
    use_sliding_window: bool | None = None
    sliding_window: Vocabulary | None = None
    max_window_layers: Annotated[int, Field(ge=0, le=1024)] | None = None
    layer_types: list[Literal["full_attention", "sliding_attention"]] | None = Field(None, max_length=1024)
    attention_dropout: Share | None = None
    rope_parameters: _Rope | None = None
    rope_scaling: _Rope | None = None
    rope_theta: Base | None = None
    tie_word_embeddings: bool | None = None
    bos_token_id: TokenId | None = None
    eos_token_id: TokenId | list[TokenId] | None = None
    pad_token_id: TokenId | None = None


class _Vision(_Checked):
    depth: Layers | None = None
    embed_dim: Size | None = None
    hidden_size: Size | None = None
    out_hidden_size: Size | None = None
    intermediate_size: Size | None = None
    mlp_ratio: Annotated[int, Field(ge=1, le=64)] | None = None
    num_heads: Layers | None = None
    hidden_act: str | None = None
    in_channels: Literal[3] | None = None
    patch_size: Patch | None = None
    spatial_merge_size: Annotated[int, Field(ge=1, le=16)] | None = None
    # Frames come in pairs.
    temporal_patch_size: Literal[2] | None = None
    tokens_per_second: Annotated[int, Field(ge=1, le=1000)] | None = None
    window_size: Annotated[int, Field(ge=1, le=2**16)] | None = None
    fullatt_block_indexes: list[Annotated[int, Field(ge=0, lt=1024)]] | None = Field(None, max_length=1024)
    initializer_range: Annotated[float, Field(ge=0, le=10)] | None = None
    rope_parameters: _Rope | None = None


class QwenConfiguration(_Text):
    """config.json of a Qwen-VL model; older ones hold the fields of the text model at the top."""

    model_type: Literal["qwen2_vl", "qwen2_5_vl"]
    text_config: _Text | None = None
    vision_config: _Vision
    image_token_id: TokenId | None = None
    video_token_id: TokenId | None = None
    vision_start_token_id: TokenId | None = None
    vision_end_token_id: TokenId | None = None
    vision_token_id: TokenId | None = None


class _Tower(_Checked):
    hidden_size: Size | None = None
    intermediate_size: Size | None = None
    projection_dim: Size | None = None
    projection_size: Size | None = None
    num_hidden_layers: Layers | None = None
    num_attention_heads: Layers | None = None
    vocab_size: Vocabulary | None = None
    max_position_embeddings: Size | None = None
    num_channels: Literal[3] | None = None
    image_size: Annotated[int, Field(ge=1, le=4096)] | None = None
    patch_size: Patch | None = None
    num_patches: Size | None = None
    hidden_act: str | None = None
    layer_norm_eps: Small | None = None
    attention_dropout: Share | None = None
    initializer_range: Annotated[float, Field(ge=0, le=10)] | None = None
    initializer_factor: Annotated[float, Field(ge=0, le=10)] | None = None
    vision_use_head: bool | None = None
    bos_token_id: TokenId | None = None
    eos_token_id: TokenId | None = None
    pad_token_id: TokenId | None = None


class EncoderConfiguration(_Checked):
    """config.json of a text-image encoder."""

    model_type: Literal["clip", "siglip", "siglip2"]
    text_config: _Tower | None = None
    vision_config: _Tower | None = None
    text_config_dict: _Tower | None = None
    vision_config_dict: _Tower | None = None
    projection_dim: Size | None = None
    logit_scale_init_value: Annotated[float, Field(ge=-100, le=100)] | None = None
    initializer_factor: Annotated[float, Field(ge=0, le=10)] | None = None


class Generation(_Checked):
    """generation_config.json, which other engines read from a folder that is saved here."""

    bos_token_id: TokenId | None = None
    eos_token_id: TokenId | list[TokenId] | None = None
    pad_token_id: TokenId | None = None
    do_sample: bool | None = None
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=2**24)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=100)] | None = None
    max_new_tokens: Vocabulary | None = None


def read_checkpoint_json(path: Path, most_bytes: int = 2**20) -> dict[str, Any]:
    """A JSON file of a model folder that holds a mapping.

    Raises:
        CheckpointError: it holds anything else, or cannot be read.
    """
    try:
        content = read_json(path, most_bytes)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not JSON that can be read ({error}); copy the file again") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds no mapping of names to values; copy the file again")
    return content


def refuse_additions(folder: Path, config: dict[str, Any]) -> None:
    """Refuse what would make transformers load more than the folder's own weights.

    Raises:
        CheckpointError: the folder holds adapters, for which the weights of a base model would be fetched, or
            quantised weights.
    """
    if (folder / "adapter_config.json").exists():
        raise CheckpointError(
            f"{folder}: holds adapters (adapter_config.json), which name a base model to fetch; merge them into its "
            "weights, or remove the file where config.json and weights are those of a whole model"
        )
    if config.get("quantization_config") is not None:
        raise CheckpointError(f"{folder}: quantised weights are not supported; give the plain weights of the model")


def build_config(config: dict[str, Any], path: Path) -> Any:
    """transformers' configuration object of a Qwen-VL model or an encoder, from the fields that decide the model.

    Args:
        config: the content of config.json; its `model_type` is one of `FAMILIES` or `ENCODER_FAMILIES`.
        path: of the file, for messages.

    Raises:
        CheckpointError: a field has the wrong type, is out of range, or does not fit another one.
    """
    from transformers import CONFIG_MAPPING

    schema: type[_Checked] = QwenConfiguration if config["model_type"] in FAMILIES else EncoderConfiguration
    try:
        clean = schema.model_validate(config).model_dump(exclude_unset=True)
        built = CONFIG_MAPPING[config["model_type"]].from_dict(_without_nulls(clean))
    except ValidationError as error:
        raise _unusable(path, explain(error)) from error
    # Validation by transformers; a missing parameter of its rotary positions is a KeyError.
    except (StrictDataclassError, LookupError, ValueError) as error:
        raise _unusable(path, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}") from error
    for problem in _qwen_problems(built) if config["model_type"] in FAMILIES else _encoder_problems(built):
        raise _unusable(path, problem)
    return built


def read_generation_config(folder: Path, config: Any) -> Any:
    """transformers' generation config: of the folder, else made from the model's configuration.

    Raises:
        CheckpointError: a field has the wrong type or is out of range.
    """
    from transformers import GenerationConfig

    path = folder / "generation_config.json"
    if not path.exists():
        return GenerationConfig.from_model_config(config)
    try:
        clean = Generation.model_validate(read_checkpoint_json(path)).model_dump(exclude_unset=True)
    except ValidationError as error:
        raise _unusable(path, explain(error)) from error
    return GenerationConfig.from_dict(clean)


def _without_nulls(content: dict[str, Any]) -> dict[str, Any]:
    """Without null, which says that a field is not stated, except where null is a value of its own."""
    return {
        name: _without_nulls(value) if isinstance(value, dict) else value
        for name, value in content.items()
        if value is not None or name in _NULLABLE
    }


def _unusable(path: Path, problem: str) -> CheckpointError:
    return CheckpointError(f"{path}: not a model configuration ({problem[:400]}); copy the file again from the model")


def _qwen_problems(config: Any) -> list[str]:
    text, vision = config.text_config, config.vision_config
    problems = _heads(text.hidden_size, text.num_attention_heads, "text_config")
    if text.num_attention_heads % text.num_key_value_heads:
        problems.append("text_config: num_attention_heads is no multiple of num_key_value_heads")
    section = (text.rope_parameters or {}).get("mrope_section")
    if not problems and (section is None or 2 * sum(section) != text.hidden_size // text.num_attention_heads):
        problems.append(f"text_config: mrope_section {section} does not add up to half of a head")
    if len(text.layer_types) != text.num_hidden_layers:
        problems.append("text_config: layer_types does not name every layer")
    width = vision.embed_dim if config.model_type == "qwen2_vl" else vision.hidden_size
    out = vision.hidden_size if config.model_type == "qwen2_vl" else vision.out_hidden_size
    problems += _heads(width, vision.num_heads, "vision_config", 4)
    if out != text.hidden_size:
        problems.append(f"vision_config gives {out} values for each token, and text_config takes {text.hidden_size}")
    if config.model_type == "qwen2_5_vl" and vision.window_size < vision.patch_size * vision.spatial_merge_size:
        problems.append("vision_config: window_size is smaller than a merged patch")
    ids = (config.image_token_id, config.video_token_id, config.vision_start_token_id, config.vision_end_token_id)
    if len(set(ids)) < len(ids):
        problems.append("two of the ids of visual tokens are the same")
    return problems + _activations(text.hidden_act, vision.hidden_act)


def _encoder_problems(config: Any) -> list[str]:
    text, vision = config.text_config, config.vision_config
    problems = [
        *_heads(text.hidden_size, text.num_attention_heads, "text_config", 1),
        *_heads(vision.hidden_size, vision.num_attention_heads, "vision_config", 1),
    ]
    if getattr(vision, "image_size", vision.patch_size) < vision.patch_size:
        problems.append("vision_config: image_size is smaller than a patch")
    return problems + _activations(text.hidden_act, vision.hidden_act)


def _heads(width: int, heads: int, part: str, multiple: int = 2) -> list[str]:
    if width % heads or width // heads % multiple:
        return [f"{part}: {width} values cannot be divided among {heads} heads"]
    return []


def _activations(*names: str) -> list[str]:
    from transformers.activations import ACT2FN

    return [f"hidden_act {name[:40]!r} is unknown" for name in names if name not in ACT2FN]
