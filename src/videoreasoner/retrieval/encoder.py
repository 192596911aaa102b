"""Text-image encoders: words and frames as vectors that can be compared.

The paper uses PE-Core-G14 (section "Multimodal Inference Pipeline"). Any CLIP, SigLIP or SigLIP2
checkpoint of transformers works as well, and so does whatever open_clip loads.
"""

from __future__ import annotations

import importlib
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import normalize
from transformers import MODEL_MAPPING, AutoModel

from videoreasoner.errors import CheckpointError, MissingExtraError
from videoreasoner.models.checkpoint import (
    LOADING,
    LOADING_ERRORS,
    check_device,
    describe_error,
    find_folder,
    is_hub_id,
)
from videoreasoner.models.folder.configuration import build_config, read_checkpoint_json, refuse_additions
from videoreasoner.models.folder.tokenizer import load_tokenizer
from videoreasoner.models.folder.weights import check_size, weight_files
from videoreasoner.retrieval.image_settings import check_image_settings

# Model type -> what its image processor gives to the model.
_IMAGE_INPUTS = {
    "clip": {"pixel_values"},
    "siglip": {"pixel_values"},
    "siglip2": {"pixel_values", "pixel_attention_mask", "spatial_shapes"},
}
SUPPORTED_MODEL_TYPES = tuple(_IMAGE_INPUTS)
TEMPLATE_FILE = "videoreasoner_encoder.json"
OPEN_CLIP_PREFIX = "open_clip:"
KNOWN_PUBLISHERS = ("openai/clip-", "google/siglip-", "google/siglip2-", "facebook/PE-Core-", "timm/", "laion/CLIP-")
"""How the ids of encoders begin that a checkpoint's settings may name and that are then fetched without asking."""

DEFAULT_TEMPLATE = "{}"
_BATCH_SIZE = 32
_FAMILIES = ", ".join(SUPPORTED_MODEL_TYPES)
# A tokenizer or image processor that does not belong to the model: ids beyond the embedding (IndexError), other shapes
# (RuntimeError), settings without meaning (KeyError, ValueError).
_MISFIT_ERRORS = (LookupError, RuntimeError, ValueError)
# What importing a torchvision that was built for another torch raises, at the first and at later attempts.
IMPORT_ERRORS = (AttributeError, ImportError, OSError, RuntimeError)


class TextImageEncoder(Protocol):
    """Maps texts and images into one space, where the cosine says how well they match."""

    name: str
    image_side: int | None
    """Pixels: an image whose sides are larger is scaled down to about this before the model sees it; None: unknown."""

    def encode_texts(self, texts: Sequence[str]) -> torch.Tensor:
        """N texts -> float32[N, D], rows of unit length, on the CPU."""

    def encode_images(self, images: NDArray[np.uint8]) -> torch.Tensor:
        """uint8[T, H, W, 3] (RGB) -> float32[T, D], rows of unit length, on the CPU."""


def load_encoder(
    spec: str | os.PathLike[str], device: str = "cpu", *, is_asked_for: bool = True, local_files_only: bool = False
) -> TextImageEncoder:
    """Load a text-image encoder.

    Args:
        spec: a shipped encoder ("tiny-encoder"), a folder or a Hugging Face id of a CLIP, SigLIP or SigLIP2 checkpoint,
            or `open_clip:MODEL/PRETRAINED`, `open_clip:hf-hub:ORG/NAME`, `open_clip:local-dir:PATH`.
        device: where the model runs, as torch names it. Results always come back on the CPU.
        is_asked_for: the user named it. Where a checkpoint's settings did, a Hugging Face id comes from the cache, or
            belongs to one of `KNOWN_PUBLISHERS`: a model folder must not make this machine fetch just anything.
        local_files_only: take a Hugging Face id from the cache and never ask the network.

    Raises:
        CheckpointError: nothing there can be loaded, the family is not supported, or the weights are not in
            safetensors.
        MissingExtraError: open_clip or torchvision is needed, and is not installed or cannot start.
        SettingError: there is no such device.
    """
    name = os.fspath(spec)
    check_device(device)
    if not is_asked_for:
        check_consent(name)
    encoder: BatchedEncoder
    if name.startswith(OPEN_CLIP_PREFIX):
        # Imported here, because it is built on this module.
        from videoreasoner.retrieval.open_clip import load_open_clip

        encoder = load_open_clip(name, torch.device(device), local_files_only)
    else:
        encoder = _load_transformers(name, torch.device(device), local_files_only)
    encoder.check()
    return encoder


def check_consent(name: str) -> None:
    """Refuse to fetch an encoder that only a checkpoint's settings name.

    Raises:
        CheckpointError: it would be fetched, and is from none of `KNOWN_PUBLISHERS`.
    """
    repository = name.removeprefix(f"{OPEN_CLIP_PREFIX}hf-hub:")
    is_local = name == repository and (name.startswith(OPEN_CLIP_PREFIX) or not is_hub_id(name))
    if is_local or Path(name).is_dir() or repository.startswith(KNOWN_PUBLISHERS):
        return
    try:
        find_folder(repository, local_files_only=True)
    except CheckpointError as error:
        raise CheckpointError(
            f"encoder {name}: the model's settings name it, and it would be fetched from the Hugging Face hub; allow "
            f"that with --encoder {name} (in a recipe: settings.encoder), or give another one, or none"
        ) from error


class BatchedEncoder(ABC):
    """What the encoders share: the template, batches, unit length, results on the CPU.

    Args:
        name: what to call it in messages.
        model: the model, in float32, in evaluation mode and on `device`.
        device: where the model is.
        template: the prompt around a text; "{}" stands for the text.
    """

    def __init__(self, name: str, model: Any, device: torch.device, template: str) -> None:
        self.name = name
        self.model = model
        self.device = device
        self.template = template
        self.batch_size = _BATCH_SIZE
        self.image_side: int | None = None

    @abstractmethod
    def _text_features(self, prompts: list[str]) -> torch.Tensor:
        """Prompts (at least one) -> [N, D], any length, any device."""

    @abstractmethod
    def _image_features(self, images: NDArray[np.uint8]) -> torch.Tensor:
        """uint8[T, H, W, 3] (T at least 1) -> [T, D], any length, any device."""

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str]) -> torch.Tensor:
        """See `TextImageEncoder`. Texts go into the template; what exceeds the model's context is cut off.

        Raises:
            TypeError: one string instead of a sequence of strings.
        """
        if isinstance(texts, str):
            raise TypeError("encode_texts takes a sequence of strings, not one string")
        # Not str.format: a brace in the user's words is only a brace.
        return self._in_batches(self._text_features, [self.template.replace("{}", text) for text in texts])

    @torch.inference_mode()
    def encode_images(self, images: NDArray[np.uint8]) -> torch.Tensor:
        """See `TextImageEncoder`. Each image is encoded on its own, so the batch size does not change the result.

        Raises:
            ValueError: another shape or dtype.
        """
        if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8:
            raise ValueError(f"images must be uint8[T, H, W, 3], not {images.dtype}{list(images.shape)}")
        if 0 in images.shape[1:]:
            raise ValueError(f"images without pixels: {list(images.shape)}")
        return self._in_batches(self._image_features, images)

    def check(self) -> None:
        """Encode one word and one grey image, so that a bad checkpoint is found when it is loaded.

        Raises:
            CheckpointError: the tokenizer, the image settings and the model do not fit together.
        """
        try:
            text = self.encode_texts(["a"])
            image = self.encode_images(np.full((1, 8, 8, 3), 128, dtype=np.uint8))
        except _MISFIT_ERRORS as error:
            raise CheckpointError(
                f"{self.name}: the tokenizer or preprocessor_config.json does not fit the model "
                f"({describe_error(error)}); save all files of one encoder in one folder"
            ) from error
        if text.shape != image.shape:
            raise CheckpointError(
                f"{self.name}: texts have {text.shape[1]} dimensions and images {image.shape[1]}; "
                "choose a checkpoint whose two towers share one space"
            )
        if not (torch.isfinite(text).all() and torch.isfinite(image).all()):
            raise CheckpointError(f"{self.name}: the model gives values that are not finite; its weights are damaged")

    def _in_batches(self, encode: Callable[[Any], torch.Tensor], items: Any) -> torch.Tensor:
        if len(items) == 0:
            # Encodes something, to learn how wide a row is.
            return self._in_batches(self._text_features, [""])[:0]
        starts = range(0, len(items), self.batch_size)
        features = torch.cat([encode(items[start : start + self.batch_size]) for start in starts])
        return normalize(features.to(device="cpu", dtype=torch.float32), dim=-1)


class TransformersEncoder(BatchedEncoder):
    """A CLIP, SigLIP or SigLIP2 model of transformers.

    Args:
        tokenizer: the checkpoint's tokenizer.
        image_processor: the checkpoint's image processor (PIL backend, which needs no torchvision).
        name, model, device, template: see `BatchedEncoder`.
    """

    def __init__(
        self, name: str, model: Any, tokenizer: Any, image_processor: Any, device: torch.device, template: str
    ) -> None:
        super().__init__(name, model, device, template)
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        self.context = model.config.text_config.max_position_embeddings
        self.image_side = _image_side(image_processor)
        self._is_clip = model.config.model_type == "clip"
        self._forbidden_ids = _forbidden_ids(tokenizer)

    def _text_features(self, prompts: list[str]) -> torch.Tensor:
        rows = [self._token_ids(prompt) for prompt in prompts]
        inputs = self._clip_inputs(rows) if self._is_clip else self._siglip_inputs(rows)
        outputs = self.model.get_text_features(**{key: value.to(self.device) for key, value in inputs.items()})
        return outputs.pooler_output

    def _image_features(self, images: NDArray[np.uint8]) -> torch.Tensor:
        # Stated, because transformers guesses the channel axis, wrongly for frames that are 3 pixels high.
        inputs = self.image_processor(images=list(images), return_tensors="pt", input_data_format="channels_last")
        if set(inputs) != _IMAGE_INPUTS[self.model.config.model_type]:
            raise ValueError(f"the image processor gives {', '.join(sorted(inputs))}")
        return self.model.get_image_features(**inputs.to(self.device)).pooler_output

    def _token_ids(self, prompt: str) -> list[int]:
        if not self._is_clip:
            # Both SigLIPs were trained on lower case, and not all of their tokenizers convert to it.
            prompt = prompt.lower()
        encoded = self.tokenizer(
            prompt,
            truncation=True,
            max_length=self.context,
            split_special_tokens=True,
            return_special_tokens_mask=True,
        )
        # A Unigram vocabulary holds its special tokens as ordinary pieces, so a "</s>" in the user's text becomes one
        # although special tokens are split. Only those that the tokenizer itself has added stay.
        return [
            token
            for token, is_added in zip(encoded["input_ids"], encoded["special_tokens_mask"], strict=True)
            if is_added or token not in self._forbidden_ids
        ]

    def _clip_inputs(self, rows: list[list[int]]) -> dict[str, torch.Tensor]:
        # CLIP takes a text's features from its end token, or from the first token where there is none. The tokenizer
        # of a language model does not add one.
        end = self.model.config.text_config.eos_token_id
        if end == 2:
            # Old configs say 2 by mistake; there, transformers uses the tokenizer's end token.
            end = self.tokenizer.eos_token_id
        rows = [row if end in row else [*row[: self.context - 1], end] for row in rows]
        tokens = [torch.tensor(row) for row in rows]
        # Padding is on the right, even if the tokenizer pads on the left: positions count from the left.
        return {
            "input_ids": torch.nn.utils.rnn.pad_sequence(tokens, True, padding_value=end),
            "attention_mask": torch.nn.utils.rnn.pad_sequence(
                [torch.ones_like(row) for row in tokens], True, padding_value=0
            ),
        }

    def _siglip_inputs(self, rows: list[list[int]]) -> dict[str, torch.Tensor]:
        # SigLIP was trained on texts padded to the full context, without a mask.
        padding = [[self.tokenizer.pad_token_id] * (self.context - len(row)) for row in rows]
        left = self.tokenizer.padding_side == "left"
        padded = [pad + row if left else row + pad for row, pad in zip(rows, padding, strict=True)]
        return {"input_ids": torch.tensor(padded)}


def _image_side(image_processor: Any) -> int | None:
    """Pixels of the longer side that an image processor resizes to; None if it does not resize."""
    if not image_processor.do_resize:
        return None
    patches = getattr(image_processor, "max_num_patches", None)
    if patches is not None:
        # SigLIP2 keeps the shape of the image, and its area within a number of patches.
        return math.ceil(math.sqrt(patches)) * int(image_processor.patch_size)
    sides = [side for side in dict(image_processor.size).values() if side]
    return max(sides, default=None)


def _load_transformers(name: str, device: torch.device, local_files_only: bool) -> TransformersEncoder:
    folder = find_folder(name, local_files_only=local_files_only)
    path = folder / "config.json"
    if not path.exists():
        raise CheckpointError(
            f"{name} is no text-image encoder that can be loaded (no config.json); give a folder with config.json, or "
            f"the id, of a {_FAMILIES} checkpoint"
        )
    raw = read_checkpoint_json(path)
    family = raw.get("model_type")
    if family not in SUPPORTED_MODEL_TYPES:
        raise CheckpointError(
            f"{name} is a {str(family or 'nameless')[:100]} model, not a text-image encoder; "
            f"supported are {_FAMILIES}, and {OPEN_CLIP_PREFIX}... for what open_clip loads"
        )
    refuse_additions(folder, raw)
    image_processors = _import_image_processors(name)
    config = build_config(raw, path)
    files = weight_files(folder)
    template = read_template(folder)
    with LOADING:
        check_size(folder, files, MODEL_MAPPING[type(config)], config)
        try:
            model, report = AutoModel.from_pretrained(
                folder,
                config=config,
                dtype=torch.float32,
                use_safetensors=True,
                output_loading_info=True,
                trust_remote_code=False,
            )
        except LOADING_ERRORS as error:
            raise CheckpointError(
                f"{name}: the weights cannot be loaded ({describe_error(error)}); copy all files of one encoder"
            ) from error
    if report["missing_keys"]:
        raise CheckpointError(
            f"{name}: {len(report['missing_keys'])} weights are missing, such as "
            f"{min(report['missing_keys'])}; give a checkpoint with both towers"
        )
    tokenizer = load_tokenizer(folder, config)
    check_image_settings(folder, importlib.import_module("transformers.image_processing_backends").PilBackend)
    try:
        # The other backend needs torchvision, which is not a dependency.
        image_processor = image_processors.from_pretrained(
            folder, backend="pil", config=config, trust_remote_code=False
        )
    except LOADING_ERRORS as error:
        raise CheckpointError(
            f"{name}: the image processor cannot be loaded ({describe_error(error)}); "
            "the folder needs preprocessor_config.json"
        ) from error
    return TransformersEncoder(name, model.to(device).eval(), tokenizer, image_processor, device, template)


def _import_image_processors(name: str) -> Any:
    try:
        return importlib.import_module("transformers").AutoImageProcessor
    except IMPORT_ERRORS as error:
        raise MissingExtraError(
            f"{name}: the image processors of transformers cannot start ({describe_cause(error)}); "
            "uninstall torchvision, which is not needed, or install the one made for torch "
            f"{torch.__version__}"
        ) from error


def read_template(folder: Path) -> str:
    """The prompt around a text that an encoder folder asks for; "{}", the text alone, where it names none.

    Raises:
        CheckpointError: the file that names it holds something else.
    """
    path = folder / TEMPLATE_FILE
    if not path.exists():
        return DEFAULT_TEMPLATE
    content = read_checkpoint_json(path)
    template = content.get("template", DEFAULT_TEMPLATE)
    if not isinstance(template, str) or template.count("{}") != 1:
        raise CheckpointError(
            f'{path} must be like {{"template": "a photo of {{}}"}}: a text with one "{{}}", not {template!r:.100}'
        )
    return template


def _forbidden_ids(tokenizer: Any) -> frozenset[int]:
    """Special tokens that words must not turn into; the unknown token only where it has another role as well."""
    control = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
    unknown = {tokenizer.unk_token_id} - control
    return frozenset(set(tokenizer.all_special_ids) - unknown)


def describe_cause(error: BaseException) -> str:
    """What made an import fail; transformers hides it behind an error of its own."""
    while error.__cause__ is not None:
        error = error.__cause__
    return describe_error(error)
