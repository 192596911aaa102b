"""Encoders of open_clip, an optional dependency."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from videoreasoner.errors import CheckpointError, MissingExtraError
from videoreasoner.models.checkpoint import LOADING_ERRORS, describe_error
from videoreasoner.retrieval.encoder import (
    DEFAULT_TEMPLATE,
    IMPORT_ERRORS,
    OPEN_CLIP_PREFIX,
    BatchedEncoder,
    describe_cause,
    read_template,
)

_INSTALL = 'pip install "videoreasoner[retrieval]"'


class OpenClipEncoder(BatchedEncoder):
    """A model of open_clip (PE-Core, SigLIP2, CLIP, ...).

    Args:
        tokenizer: what `open_clip.get_tokenizer` returns.
        transform: PIL image -> float32[3, H, W].
        name, model, device, template: see `BatchedEncoder`.
    """

    def __init__(
        self, name: str, model: Any, tokenizer: Any, transform: Any, device: torch.device, template: str
    ) -> None:
        super().__init__(name, model.eval(), device, template)
        self.tokenizer = _without_special_words(tokenizer)
        self.transform = transform
        side = getattr(getattr(model, "visual", None), "image_size", None)
        self.image_side = max(side) if isinstance(side, (tuple, list)) else side

    def _text_features(self, prompts: list[str]) -> torch.Tensor:
        return self.model.encode_text(self.tokenizer(prompts).to(self.device))

    def _image_features(self, images: NDArray[np.uint8]) -> torch.Tensor:
        pixels = torch.stack([self.transform(Image.fromarray(image)) for image in images])
        return self.model.encode_image(pixels.to(self.device))


def load_open_clip(name: str, device: torch.device, local_files_only: bool) -> OpenClipEncoder:
    """Load an encoder of open_clip: see `load_encoder`.

    Raises:
        CheckpointError: there is no such model, or its weights are not in safetensors.
        MissingExtraError: open_clip is not installed or cannot start.
    """
    open_clip = _import_open_clip(name)
    target = name.removeprefix(OPEN_CLIP_PREFIX)
    template = DEFAULT_TEMPLATE
    pretrained = None
    if target.startswith("local-dir:"):
        folder = Path(target.removeprefix("local-dir:")).expanduser()
        if not any(folder.glob("*.safetensors")):
            raise CheckpointError(
                f"{name}: no .safetensors file in {folder}; pickled weights are not read: save "
                "them with safetensors next to open_clip_config.json"
            )
        template = read_template(folder)
        target = f"local-dir:{folder}"
    elif local_files_only:
        raise CheckpointError(
            f"{name}: open_clip may ask the network, and local_files_only is set; give open_clip:local-dir:FOLDER"
        )
    elif not target.startswith("hf-hub:"):
        target, _, pretrained = target.partition("/")
        tags = open_clip.list_pretrained_tags_by_model(target)
        # open_clip also takes a path in place of a tag, and would then read any pickled file.
        if pretrained not in tags:
            known = ", ".join(tags) or "none, see open_clip.list_pretrained()"
            raise CheckpointError(
                f"{name}: name a model of open_clip and its weights, as in "
                f"open_clip:MODEL/PRETRAINED; weights known for {target!r}: {known}"
            )
    try:
        model, transform = open_clip.create_model_from_pretrained(
            target, pretrained=pretrained, device=device, weights_only=True
        )
        tokenizer = open_clip.get_tokenizer(target)
    except LOADING_ERRORS as error:
        raise CheckpointError(
            f"{name} cannot be loaded by open_clip ({describe_error(error)}); check the name, the "
            "network, and that the folder has open_clip_config.json"
        ) from error
    return OpenClipEncoder(name, model, tokenizer, transform, device, template)


def _import_open_clip(name: str) -> ModuleType:
    try:
        return importlib.import_module("open_clip")
    except IMPORT_ERRORS as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "open_clip":
            raise MissingExtraError(f"{name} needs open_clip: {_INSTALL}") from error
        raise MissingExtraError(
            f"{name} needs open_clip, which is installed but cannot start ({describe_cause(error)}); "
            f"install the torchvision made for torch {torch.__version__}, then: {_INSTALL}"
        ) from error


def _without_special_words(tokenizer: Any) -> Any:
    """Make an open_clip tokenizer read "<end_of_text>" in a text as words."""
    if hasattr(tokenizer, "tokenizer"):
        tokenizer.tokenizer.split_special_tokens = True
    else:
        # Its byte-pair step knows special tokens only by these cache entries.
        tokenizer.cache = {}
    return tokenizer
