"""The model of a recipe as far as planning needs it: settings, a tokenizer, and the network without its weights.

The network is built on torch's meta device, where tensors have shapes and no content.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from videoreasoner.models.checkpoint import SHIPPED, find_folder, is_hub_id, read_config
from videoreasoner.models.event_tokens import extend_tokenizer
from videoreasoner.models.folder import weights
from videoreasoner.models.folder.configuration import FAMILIES, build_config
from videoreasoner.models.folder.tokenizer import load_tokenizer
from videoreasoner.models.prompt_encoder import TURN_END, TURN_START, VIDEO_PAD, VISION_END, VISION_START, PromptEncoder
from videoreasoner.settings import Settings
from videoreasoner.tasks import EVENT_TOKENS
from videoreasoner.training.catalog import writers
from videoreasoner.training.recipe import Recipe
from videoreasoner.video.patches import PatchSettings

_CHARACTERS_PER_TOKEN = 3.5


def _config(model_type: str, is_tied: bool, vision: dict[str, int], *text: int) -> dict[str, Any]:
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size")
    return {
        "model_type": model_type,
        "tie_word_embeddings": is_tied,
        "text_config": {
            **dict(zip((*names, "vocab_size"), text, strict=True)),
            "rope_parameters": {"rope_type": "default", "mrope_section": [16, 24, 24]},
        },
        "vision_config": vision,
    }


def _qwen2(out: int) -> dict[str, int]:
    return {"depth": 32, "embed_dim": 1280, "mlp_ratio": 4, "hidden_size": out}


def _qwen2_5(out: int) -> dict[str, int]:
    return {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "out_hidden_size": out}


PUBLISHED: dict[str, dict[str, Any]] = {
    "qwen2-vl-2b": _config("qwen2_vl", True, _qwen2(1536), 1536, 28, 12, 2, 8960, 151936),
    "qwen2-vl-7b": _config("qwen2_vl", False, _qwen2(3584), 3584, 28, 28, 4, 18944, 152064),
    "qwen2.5-vl-3b": _config("qwen2_5_vl", True, _qwen2_5(2048), 2048, 36, 16, 2, 11008, 151936),
    "qwen2.5-vl-7b": _config("qwen2_5_vl", False, _qwen2_5(3584), 3584, 28, 28, 4, 18944, 152064),
}
"""Name -> the sizes in the config.json of a published model, so that it can be planned for without a network."""


def meta_model(config: dict[str, Any], path: Path = Path("config.json")) -> Any:
    """The model that a config.json describes, on torch's meta device.

    Args:
        config: in transformers' old flat layout or the nested one.
        path: of the file, for messages.

    Raises:
        CheckpointError: it describes no model that can be built.
    """
    import transformers

    return weights.meta_model(getattr(transformers, FAMILIES[config["model_type"]]), build_config(config, path))


def published_name(name: str) -> str | None:
    """The key in `PUBLISHED` of a model id such as Qwen/Qwen2-VL-7B-Instruct; None for any other."""
    key = name.rpartition("/")[2].lower().removesuffix("-instruct")
    return key if key in PUBLISHED else None


def similar_published_name(path: str) -> str | None:
    """The published model that the last part of a path begins with: `out/qwen2-vl-2b-lora` is like qwen2-vl-2b."""
    last = path.rpartition("/")[2].lower()
    return next((key for key in PUBLISHED if last == key or last.startswith(f"{key}-")), None)


@dataclass(frozen=True)
class PlannedModel:
    """What is known of a model without its weights.

    Attributes:
        network: transformers' model on the meta device.
        encoder: counts tokens; by characters where `has_tokenizer` is false.
        note: a message about a folder that does not exist yet, and what was planned for instead; else empty.
    """

    network: Any
    settings: Settings
    patches: PatchSettings
    encoder: PromptEncoder
    has_tokenizer: bool
    note: str = ""


def read_model(recipe: Recipe) -> PlannedModel:
    """The model of a recipe, from its folder or from the table of published models.

    A folder that does not exist yet is planned for as the model that the shipped recipe begins from which writes it;
    without such a recipe, as the published model that its name begins with.

    Raises:
        CheckpointError: the model is neither a usable folder nor published.
        SettingError: the recipe's settings make no sense.
    """
    name, note = recipe.model_name_or_path, ""
    more: dict[str, Any] = {}
    while not is_here(name) and (makers := writers(name)):
        commands = " or ".join(f"`{maker.command}`" for maker in makers)
        note = note or f"Missing: {name}. Training will fail without it; {commands} writes it."
        name, more = makers[0].value("model_name_or_path"), (makers[0].value("settings") or {}) | more
    if note:
        note += f" Planned for as {name}."
    key = published_name(name)
    if not is_here(name) and not is_hub_id(name) and (similar := similar_published_name(name)) is not None:
        key = similar
        note = (
            f"Missing: {name}. Training will fail without it, and no shipped recipe writes it. Planned for as "
            f"{similar}, which its name begins with."
        )
    changes = more | recipe.settings
    if key is not None and not is_here(name):
        settings = Settings().changed(**changes)
        patches = PatchSettings(min_pixels=settings.min_pixels, max_pixels=settings.max_pixels)
        counter: Any = _CharacterCounter()
        encoder = PromptEncoder(counter, settings.prompts)
        return PlannedModel(meta_model(PUBLISHED[key]), settings, patches, encoder, False, note)
    folder = find_folder(name, weights=False)
    settings = Settings.load(folder).changed(**changes)
    network = meta_model(read_config(folder), folder / "config.json")
    patches = PatchSettings.from_folder(folder, min_pixels=settings.min_pixels, max_pixels=settings.max_pixels)
    return PlannedModel(network, settings, patches, _encoder(folder, settings, network.config), True, note)


def is_here(name: str) -> bool:
    """Whether a name is that of a shipped model, or of a folder that holds one."""
    # Unlike `Path.is_file`, `isfile` is False for a name that is too long.
    return any(os.path.isfile(folder / "config.json") for folder in (Path(name).expanduser(), SHIPPED / name))


def _encoder(folder: Path, settings: Settings, config: Any) -> PromptEncoder:
    tokenizer = load_tokenizer(folder, config)
    extend_tokenizer(tokenizer)
    return PromptEncoder(tokenizer, settings.prompts)


class _CharacterCounter:
    """Stands in for a tokenizer that is not here: makes one token of every 3.5 characters."""

    def get_vocab(self) -> dict[str, int]:
        special = (TURN_START, TURN_END, VISION_START, VISION_END, VIDEO_PAD, *EVENT_TOKENS)
        # From 1, because 0 is its id of text.
        return {token: number for number, token in enumerate(special, 1)}

    def __call__(self, text: str, **options: bool) -> dict[str, list[int]]:
        return {"input_ids": [0] * math.ceil(len(text) / _CHARACTERS_PER_TOKEN)}
