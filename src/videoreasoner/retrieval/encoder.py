"""Text-image encoders: words and frames as vectors that can be compared.

The paper uses PE-Core-G14 (section "Inference"; reference/data-and-benchmarks.md, 1.9). Any CLIP,
SigLIP or SigLIP2 checkpoint of transformers does here, and whatever open_clip loads.
"""

from __future__ import annotations

import importlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError
from torch.nn.functional import normalize
from transformers import AutoConfig, AutoModel, AutoTokenizer

from videoreasoner.errors import CheckpointError, MissingExtraError, SettingError

SUPPORTED_MODEL_TYPES = ("clip", "siglip", "siglip2")
TEMPLATE_FILE = "videoreasoner_encoder.json"
DEFAULT_TEMPLATE = "{}"
DEFAULT_BATCH_SIZE = 32
OPEN_CLIP_PREFIX = "open_clip:"

_INSTALL = 'pip install "videoreasoner[retrieval]"'
# transformers and open_clip report a bad folder by any of these; none of them is a defect of ours.
_LOADING_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    OSError,
    RuntimeError,
    SafetensorError,
    TypeError,
    ValueError,
)
# What importing a torchvision made for another torch ends in, at the first and later attempts.
_BROKEN_TORCHVISION = (AttributeError, ImportError, OSError, RuntimeError)


class TextImageEncoder(Protocol):
    """Puts texts and images into one space, where the cosine says how well they match."""

    name: str

    def encode_texts(self, texts: Sequence[str]) -> torch.Tensor:
        """Texts -> float32[N, D], rows of unit length, on the CPU."""

    def encode_images(self, images: NDArray[np.uint8]) -> torch.Tensor:
        """uint8[T, H, W, 3] (RGB) -> float32[T, D], rows of unit length, on the CPU."""


def load_encoder(spec: str | os.PathLike[str], device: str = "cpu") -> TextImageEncoder:
    """Load a text-image encoder.

    Args:
        spec: a Hugging Face folder or hub id of a CLIP, SigLIP or SigLIP2 checkpoint, or
            `open_clip:MODEL/PRETRAINED`, `open_clip:hf-hub:ORG/NAME`, `open_clip:local-dir:PATH`.
            A spec is a folder when it exists on disk or starts with ".", "/" or "~".
        device: where the model runs, as torch names it. Results always come back on the CPU.

    Raises:
        CheckpointError: nothing loadable there, a family that is not supported, or weights that
            are not in safetensors.
        MissingExtraError: an `open_clip:` spec, and open_clip is not installed or cannot start.
        SettingError: a device that does not exist.
    """
    name = os.fspath(spec)
    target = _device(device)
    encoder: _BatchedEncoder
    if name.startswith(OPEN_CLIP_PREFIX):
        encoder = _load_open_clip(name, target)
    else:
        encoder = _load_transformers(name, target)
    encoder.check()
    return encoder


class _BatchedEncoder(ABC):
    """What the encoders share: the template, the batches, unit length, CPU."""

    def __init__(
        self,
        name: str,
        device: torch.device,
        template: str = DEFAULT_TEMPLATE,
        batch_size: int = DEFAULT_BATCH_SIZE,
    ) -> None:
        if batch_size < 1:
            raise SettingError(f"batch_size must be at least 1, not {batch_size}")
        self.name = name
        self.device = device
        self.template = template
        self.batch_size = batch_size

    @abstractmethod
    def _text_features(self, prompts: list[str]) -> torch.Tensor:
        """Prompts (at least one) -> [N, D], any length, any device."""

    @abstractmethod
    def _image_features(self, images: NDArray[np.uint8]) -> torch.Tensor:
        """uint8[T, H, W, 3] (T at least 1) -> [T, D], any length, any device."""

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str]) -> torch.Tensor:
        """Words, put into the template, as vectors; what exceeds the context is cut off.

        Args:
            texts: N texts.

        Returns:
            float32[N, D], rows of unit length, on the CPU.

        Raises:
            TypeError: one string instead of a sequence of strings.
        """
        if isinstance(texts, str):
            raise TypeError("encode_texts takes a sequence of strings, not one string")
        # replace, not format: a brace in the user's words is only a brace.
        prompts = [self.template.replace("{}", text) for text in texts]
        if not prompts:
            return self._finish([self._text_features([""])])[:0]
        size = self.batch_size
        starts = range(0, len(prompts), size)
        return self._finish([self._text_features(prompts[at : at + size]) for at in starts])

    @torch.inference_mode()
    def encode_images(self, images: NDArray[np.uint8]) -> torch.Tensor:
        """Images as vectors, each on its own: the batch size does not change the result.

        Args:
            images: uint8[T, H, W, 3], RGB.

        Returns:
            float32[T, D], rows of unit length, on the CPU.

        Raises:
            ValueError: another shape or dtype.
        """
        if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8:
            raise ValueError(f"images must be uint8[T, H, W, 3], not {images.dtype}{list(images.shape)}")
        if len(images) == 0:
            return self._finish([self._text_features([""])])[:0]
        if 0 in images.shape:
            raise ValueError(f"images without pixels: {list(images.shape)}")
        size = self.batch_size
        starts = range(0, len(images), size)
        return self._finish([self._image_features(images[at : at + size]) for at in starts])

    def check(self) -> None:
        """Encode one word and one grey image, so that a bad checkpoint is found when it is loaded.

        Raises:
            CheckpointError: the tokenizer, the image settings and the model do not fit together.
        """
        try:
            text = self.encode_texts(["a"])
            image = self.encode_images(np.full((1, 8, 8, 3), 128, dtype=np.uint8))
        except _LOADING_ERRORS as error:
            raise CheckpointError(
                f"{self.name}: the tokenizer or preprocessor_config.json does not fit the model "
                f"({_first_line(error)}); save all files of one encoder in one folder"
            ) from error
        if text.shape != image.shape:
            raise CheckpointError(
                f"{self.name}: texts have {text.shape[1]} dimensions and images {image.shape[1]}; "
                "choose a checkpoint whose two towers share one space"
            )
        if not (torch.isfinite(text).all() and torch.isfinite(image).all()):
            raise CheckpointError(f"{self.name}: the model gives values that are not finite; its weights are damaged")

    def _finish(self, features: list[torch.Tensor]) -> torch.Tensor:
        rows = torch.cat(features).to(device="cpu", dtype=torch.float32)
        return normalize(rows, dim=-1)


class TransformersEncoder(_BatchedEncoder):
    """A CLIP, SigLIP or SigLIP2 model of transformers, with its tokenizer and image processor.

    Args:
        name: what to call it in messages and in evidence.
        model: CLIPModel, SiglipModel or Siglip2Model, in float32 and on `device`.
        tokenizer: the checkpoint's tokenizer.
        image_processor: the checkpoint's image processor (PIL backend: no torchvision).
        device: where the model is.
        template: the prompt around a text; "{}" stands for the text.
        batch_size: how many texts or images go through the model at once.
    """

    def __init__(
        self,
        name: str,
        model: Any,
        tokenizer: Any,
        image_processor: Any,
        device: torch.device,
        template: str = DEFAULT_TEMPLATE,
        batch_size: int = DEFAULT_BATCH_SIZE,
    ) -> None:
        super().__init__(name, device, template, batch_size)
        self.model = model
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        self.context = model.config.text_config.max_position_embeddings
        self._is_clip = model.config.model_type == "clip"
        self._forbidden_ids = _forbidden_ids(tokenizer)

    def _text_features(self, prompts: list[str]) -> torch.Tensor:
        rows = [self._token_ids(prompt) for prompt in prompts]
        inputs = self._clip_inputs(rows) if self._is_clip else self._siglip_inputs(rows)
        outputs = self.model.get_text_features(**{key: value.to(self.device) for key, value in inputs.items()})
        return outputs.pooler_output

    def _image_features(self, images: NDArray[np.uint8]) -> torch.Tensor:
        # Stated, because transformers guesses the channel axis, wrongly for frames 3 pixels high.
        inputs = self.image_processor(images=list(images), return_tensors="pt", input_data_format="channels_last")
        return self.model.get_image_features(**inputs.to(self.device)).pooler_output

    def _token_ids(self, prompt: str) -> list[int]:
        if not self._is_clip:
            # Both SigLIPs were trained on lower case; some of their tokenizers do not see to it.
            prompt = prompt.lower()
        encoded = self.tokenizer(
            prompt,
            truncation=True,
            max_length=self.context,
            split_special_tokens=True,
            return_special_tokens_mask=True,
        )
        # A Unigram vocabulary holds its special tokens as ordinary pieces, so that splitting them
        # does not keep the user's "</s>" from becoming one; only those set by the tokenizer stay.
        return [
            token
            for token, ours in zip(encoded["input_ids"], encoded["special_tokens_mask"], strict=True)
            if ours or token not in self._forbidden_ids
        ]

    def _clip_inputs(self, rows: list[list[int]]) -> dict[str, torch.Tensor]:
        # CLIP reads a text off its end token, and takes the first token if there is none: a
        # tokenizer made for a language model does not add it.
        end = self.model.config.text_config.eos_token_id
        if end == 2:
            # transformers takes 2 for a mistake in old configs, where the tokenizer knows better.
            end = self.tokenizer.eos_token_id
        rows = [row if end in row else [*row[: self.context - 1], end] for row in rows]
        tokens = [torch.tensor(row) for row in rows]
        # Padding is on the right, whatever the tokenizer says: positions count from the left.
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


class OpenClipEncoder(_BatchedEncoder):
    """A model of open_clip (PE-Core, SigLIP2, CLIP, ...), with its tokenizer and transform.

    Args:
        name: what to call it in messages and in evidence.
        model: what `open_clip.create_model_from_pretrained` returns, on `device`.
        tokenizer: what `open_clip.get_tokenizer` returns.
        transform: PIL image -> float32[3, H, W].
        device: where the model is.
        template: the prompt around a text; "{}" stands for the text.
        batch_size: how many texts or images go through the model at once.
    """

    def __init__(
        self,
        name: str,
        model: Any,
        tokenizer: Any,
        transform: Any,
        device: torch.device,
        template: str = DEFAULT_TEMPLATE,
        batch_size: int = DEFAULT_BATCH_SIZE,
    ) -> None:
        super().__init__(name, device, template, batch_size)
        self.model = model.eval()
        self.tokenizer = _without_special_words(tokenizer)
        self.transform = transform

    def _text_features(self, prompts: list[str]) -> torch.Tensor:
        return self.model.encode_text(self.tokenizer(prompts).to(self.device))

    def _image_features(self, images: NDArray[np.uint8]) -> torch.Tensor:
        pixels = torch.stack([self.transform(Image.fromarray(image)) for image in images])
        return self.model.encode_image(pixels.to(self.device))


def _load_transformers(name: str, device: torch.device) -> TransformersEncoder:
    folder = _folder(name)
    source = name if folder is None else str(folder)
    try:
        # Remote code is refused here, and not asked about on the terminal.
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    except _LOADING_ERRORS as error:
        where = "an id that can be reached" if folder is None else "a folder with config.json"
        raise CheckpointError(
            f"{name} is no text-image encoder that can be loaded ({_first_line(error)}); give "
            f"{where} of a {_families()} checkpoint"
        ) from error
    if config.model_type not in SUPPORTED_MODEL_TYPES:
        raise CheckpointError(
            f"{name} is a {config.model_type or 'nameless'} model, not a text-image encoder; "
            f"supported are {_families()}, and {OPEN_CLIP_PREFIX}... for what open_clip loads"
        )
    template = _template(folder)
    image_processors = _import_image_processors(name)
    try:
        model, report = AutoModel.from_pretrained(
            source,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            output_loading_info=True,
            trust_remote_code=False,
        )
    except _LOADING_ERRORS as error:
        raise CheckpointError(
            f"{name}: the weights cannot be loaded ({_first_line(error)}); only safetensors are "
            "read, never pickled weights: convert them with save_pretrained"
        ) from error
    if report["missing_keys"]:
        raise CheckpointError(
            f"{name}: {len(report['missing_keys'])} weights are missing, such as "
            f"{min(report['missing_keys'])}; give a checkpoint with both towers"
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        # The other backend needs torchvision, which the core does without.
        image_processor = image_processors.from_pretrained(source, backend="pil", trust_remote_code=False)
    except _LOADING_ERRORS as error:
        raise CheckpointError(
            f"{name}: the tokenizer or image processor cannot be loaded ({_first_line(error)}); "
            "the folder needs tokenizer.json, tokenizer_config.json and preprocessor_config.json"
        ) from error
    # Without its files, transformers makes a tokenizer that knows special tokens only.
    if len(tokenizer) <= len(set(tokenizer.all_special_ids)):
        raise CheckpointError(f"{name}: the tokenizer knows no words; add its tokenizer.json")
    model = model.to(device).eval()
    return TransformersEncoder(name, model, tokenizer, image_processor, device, template)


def _load_open_clip(name: str, device: torch.device) -> OpenClipEncoder:
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
        template = _template(folder)
        target = f"local-dir:{folder}"
    elif not target.startswith("hf-hub:"):
        target, _, pretrained = target.partition("/")
        tags = open_clip.list_pretrained_tags_by_model(target)
        # open_clip also takes a path for a tag, and would then read any pickled file.
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
    except _LOADING_ERRORS as error:
        raise CheckpointError(
            f"{name} cannot be loaded by open_clip ({_first_line(error)}); check the name, the "
            "network, and that the folder has open_clip_config.json"
        ) from error
    return OpenClipEncoder(name, model, tokenizer, transform, device, template)


def _import_image_processors(name: str) -> Any:
    try:
        return importlib.import_module("transformers").AutoImageProcessor
    except _BROKEN_TORCHVISION as error:
        raise MissingExtraError(
            f"{name}: the image processors of transformers cannot start ({_cause(error)}); "
            "uninstall torchvision, which they do without, or install the one made for torch "
            f"{torch.__version__}"
        ) from error


def _import_open_clip(name: str) -> ModuleType:
    try:
        return importlib.import_module("open_clip")
    except _BROKEN_TORCHVISION as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "open_clip":
            raise MissingExtraError(f"{name} needs open_clip: {_INSTALL}") from error
        raise MissingExtraError(
            f"{name} needs open_clip, which is installed but cannot start ({_cause(error)}); "
            f"install the torchvision made for torch {torch.__version__}, then: {_INSTALL}"
        ) from error


def _device(device: str) -> torch.device:
    try:
        target = torch.device(device)
        torch.empty(0, device=target)
    # A torch without CUDA says so by an AssertionError.
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise SettingError(f"device {device!r} cannot be used ({_first_line(error)}); try 'cpu'") from error
    return target


def _folder(name: str) -> Path | None:
    """The folder that a spec means, or None for a hub id."""
    folder = Path(name).expanduser()
    if not name.startswith((".", "/", "~")) and not folder.exists():
        return None
    if not folder.is_dir():
        raise CheckpointError(f"{name} is not a folder; give the folder of a {_families()} model")
    return folder


def _template(folder: Path | None) -> str:
    if folder is None or not (folder / TEMPLATE_FILE).is_file():
        return DEFAULT_TEMPLATE
    path = folder / TEMPLATE_FILE
    try:
        template = json.loads(path.read_text(encoding="utf-8")).get("template", DEFAULT_TEMPLATE)
    except (ValueError, AttributeError) as error:
        raise CheckpointError(f'{path} must be like {{"template": "a photo of {{}}"}}') from error
    if not isinstance(template, str) or template.count("{}") != 1:
        raise CheckpointError(f'{path}: template must be a text with one "{{}}", not {template!r}')
    return template


def _forbidden_ids(tokenizer: Any) -> frozenset[int]:
    """Special tokens that words must not turn into; "unknown" is only among them if it is more."""
    control = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
    unknown = {tokenizer.unk_token_id} - control
    return frozenset(set(tokenizer.all_special_ids) - unknown)


def _without_special_words(tokenizer: Any) -> Any:
    """Make an open_clip tokenizer read "<end_of_text>" in a text as words."""
    if hasattr(tokenizer, "tokenizer"):
        tokenizer.tokenizer.split_special_tokens = True
    else:
        # Its byte-pair step knows special tokens by these cache entries alone.
        tokenizer.cache = {}
    return tokenizer


def _families() -> str:
    return ", ".join(SUPPORTED_MODEL_TYPES)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    text = lines[0] if lines else ""
    return f"{type(error).__name__}: {text[:200]}"


def _cause(error: BaseException) -> str:
    """What an import failed of; transformers hides it behind an error of its own."""
    while error.__cause__ is not None:
        error = error.__cause__
    return _first_line(error)
