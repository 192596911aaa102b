"""Loading and saving checkpoints: a Hugging Face folder plus `videoreasoner.json`."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from videoreasoner.errors import CheckpointError, SettingError
from videoreasoner.models.event_tokens import add_event_tokens
from videoreasoner.models.folder.configuration import (
    FAMILIES,
    build_config,
    read_checkpoint_json,
    read_generation_config,
    refuse_additions,
)
from videoreasoner.models.folder.tokenizer import load_tokenizer
from videoreasoner.models.folder.weights import check_size, weight_files
from videoreasoner.models.prompt_encoder import PromptEncoder
from videoreasoner.settings import Settings
from videoreasoner.tasks import EVENT_TOKENS
from videoreasoner.video.patches import PatchSettings

SHIPPED = Path(__file__).parent.parent / "checkpoints"
# The longest path of Linux.
_LONGEST_NAME = 4095
_LONGEST_PART = 255
_WEIGHTS = "*.safetensors"
_SMALL_FILES = ["*.json", "*.txt", "*.jinja", "*.model"]
LOADING = threading.RLock()
"""Held while transformers loads weights: it keeps the state of a load in globals, which two threads would mix up."""
# What loading a bad folder raises: missing files (OSError), damaged weights (SafetensorError), weights of other shapes
# (RuntimeError), a config or tokenizer that does not hold what it should (LookupError, ValueError) or that needs a
# package that is not installed (ImportError). AttributeError and TypeError are missing on purpose: they are defects.
LOADING_ERRORS = (ImportError, LookupError, OSError, RuntimeError, SafetensorError, ValueError)


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A model with everything that is needed to ask it.

    Attributes:
        name: what the user called it.
        model: the transformers model, in evaluation mode.
        encoder: tokenizer and prompts.
        patches: geometry of the vision tower's input.
        tokens_per_second: temporal resolution of its positions; None counts pairs (Qwen2-VL).
        folder: where it was loaded from; None for a model that was made in memory.
    """

    name: str
    model: Any
    encoder: PromptEncoder
    settings: Settings
    patches: PatchSettings
    tokens_per_second: float | None
    folder: Path | None = None

    @property
    def end_ids(self) -> tuple[int, ...]:
        """Ids that end a completion: the turn's end, and what the generation config says."""
        configured = self.model.generation_config.eos_token_id
        more = configured if isinstance(configured, list) else [configured]
        return tuple({self.encoder.end_id, *(i for i in more if i is not None)})

    @property
    def banned_ids(self) -> tuple[int, ...]:
        """Ids that a completion may never hold: visual placeholders have no embedding of their own."""
        config = self.model.config
        names = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
        ids = {getattr(config, name, None) for name in (*names, "vision_token_id")}
        # Not the shape of the output layer's weight: split over processes, it has no rows.
        rows = config.get_text_config().vocab_size
        beyond = range(len(self.encoder.tokenizer), rows)
        return tuple({i for i in ids if i is not None and 0 <= i < rows} | set(beyond))


def is_hub_id(name: str) -> bool:
    """Whether a name that is no folder here reads as organisation/model."""
    return name.count("/") == 1 and not name.startswith((".", "/", "~"))


def find_folder(
    name: str | Path, *, weights: bool = True, revision: str | None = None, local_files_only: bool = False
) -> Path:
    """The folder of a shipped checkpoint, a path, or a Hugging Face id (downloaded, or from its cache).

    Args:
        name: of the checkpoint, or of a text-image encoder.
        weights: whether they are to be downloaded, too, where the name is an id.
        revision: branch, tag or commit of a Hugging Face id; by default its main branch.
        local_files_only: take an id from the cache and never ask the network.

    Raises:
        CheckpointError: there is no such thing, or the hub cannot be reached.
        SettingError: a revision of what is no Hugging Face id.
    """
    text = str(name)
    if not text.strip():
        raise CheckpointError("the name of a model or encoder is empty; give a name, a folder or a Hugging Face id")
    # A longer part is the name of no file, and asking for it is an error of the system.
    if "\0" in text or len(text) > _LONGEST_NAME or max(map(len, map(os.fsencode, text.split("/")))) > _LONGEST_PART:
        raise CheckpointError(f"{text[:60]!r}...: no name of a model; give a name, a folder or a Hugging Face id")
    is_shipped = (SHIPPED / text / "config.json").is_file()
    path = SHIPPED / text if is_shipped else Path(text).expanduser()
    if path.is_dir():
        if revision is not None:
            raise SettingError(f"revision {revision}: {text} is a folder; only a Hugging Face id has revisions")
        return path
    if path.exists():
        raise CheckpointError(f"{text}: a model is a folder, and this is a file")
    if not is_hub_id(text):
        shipped = ", ".join(sorted(p.name for p in SHIPPED.iterdir() if p.is_dir()))
        raise CheckpointError(
            f"{text}: no such folder; give a checkpoint folder, a Hugging Face id such as "
            f"Qwen/Qwen2-VL-2B-Instruct, or one of the shipped models: {shipped}"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        patterns = [*_SMALL_FILES, *([_WEIGHTS] if weights else [])]
        return Path(
            snapshot_download(text, allow_patterns=patterns, revision=revision, local_files_only=local_files_only)
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        if local_files_only:
            raise CheckpointError(
                f"{text}: not in the cache of Hugging Face files, and local_files_only is set; download it first"
            ) from error
        at = "" if revision is None else f" at revision {revision}"
        raise CheckpointError(
            f"{text}: not a folder here, and it cannot be fetched from the Hugging Face hub{at} "
            f"({type(error).__name__}); check the name and the network"
        ) from error


def read_config(folder: Path) -> dict[str, Any]:
    """The checkpoint's config.json, after checking that it describes a model that can be loaded.

    Raises:
        CheckpointError: no checkpoint, or an unsupported family.
    """
    path = folder / "config.json"
    if not path.exists():
        raise CheckpointError(f"{folder}: no config.json, so this is no checkpoint folder")
    config = read_checkpoint_json(path)
    family = config.get("model_type")
    if family in ("qwen3_vl", "qwen3_vl_moe"):
        raise CheckpointError(
            f"{folder}: Qwen3-VL is not supported yet: its timestamps and deepstack features do not go through "
            f"the prompt tree; use a checkpoint of {' or '.join(FAMILIES)}"
        )
    if not isinstance(family, str) or family not in FAMILIES:
        raise CheckpointError(
            f"{folder}: model type {str(family)[:100]!r} is not supported; use one of {', '.join(FAMILIES)}"
        )
    # transformers would fill a gap with the defaults of a model of 8 B parameters.
    if not isinstance(config.get("vision_config"), dict) or not (
        isinstance(config.get("text_config"), dict) or "hidden_size" in config
    ):
        raise CheckpointError(f"{path}: not a model configuration (it does not describe both vision and text model)")
    refuse_additions(folder, config)
    return config


def check_device(name: str) -> None:
    """Raises:
    SettingError: there is no such device.
    """
    try:
        torch.empty(0, device=name)
    # A torch without CUDA says so by an AssertionError.
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise SettingError(f"device {name!r} cannot be used ({describe_error(error)}); try 'cpu'") from error


def describe_error(error: BaseException) -> str:
    """The type of an error and its first line, cut to a length that fits into a message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300] if lines else ''}"


def load_checkpoint(
    name: str | Path,
    device: str = "auto",
    dtype: torch.dtype | None = None,
    *,
    revision: str | None = None,
    local_files_only: bool = False,
    attn_implementation: str = "sdpa",
    quantization_config: Any = None,
    **overrides: Any,
) -> Checkpoint:
    """Load any Qwen2-VL or Qwen2.5-VL checkpoint and add the event tokens where they are missing.

    Args:
        name: a shipped checkpoint, a folder or a Hugging Face id.
        device: a torch device, or "auto": the first GPU, else the CPU.
        dtype: of the weights; by default bfloat16 on a GPU and float32 on a CPU.
        revision: of a Hugging Face id: branch, tag or commit.
        local_files_only: take a Hugging Face id from the cache and never ask the network.
        attn_implementation: attention of the vision tower: one of `VISION_ATTENTION`. Text always uses the attention
            of prompt trees (`models.attention`).
        quantization_config: transformers' own, for training adapters on quantised weights.
        overrides: fields of `Settings` that replace the checkpoint's own; None leaves them.

    Raises:
        CheckpointError: it cannot be loaded; the message says why.
        SettingError: an override makes no sense, or there is no such device, revision or attention.
    """
    import transformers

    from videoreasoner.models.attention import implementation

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    # Check everything that can be checked before gigabytes are downloaded.
    check_device(device)
    attention = implementation(attn_implementation)
    described = find_folder(name, weights=False, revision=revision, local_files_only=local_files_only)
    described_config = read_config(described)
    settings = Settings.load(described).changed(**overrides)
    config = build_config(described_config, described / "config.json")
    folder = find_folder(name, revision=revision, local_files_only=local_files_only)
    files = weight_files(folder)
    if dtype is None:
        dtype = torch.float32 if device == "cpu" else torch.bfloat16
    family = getattr(transformers, FAMILIES[config.model_type])
    patches = PatchSettings.from_folder(folder, min_pixels=settings.min_pixels, max_pixels=settings.max_pixels)
    _check_patches(folder, patches, config.vision_config)
    tokenizer = load_tokenizer(folder, config)
    with LOADING:
        with whole_weights():
            check_size(folder, files, family, config)
        try:
            with whole_weights():
                model, report = family.from_pretrained(
                    folder,
                    config=config,
                    generation_config=read_generation_config(folder, config),
                    dtype=dtype,
                    attn_implementation=attention,
                    use_safetensors=True,
                    output_loading_info=True,
                    quantization_config=quantization_config,
                )
        except LOADING_ERRORS as error:
            raise CheckpointError(f"{folder}: cannot be loaded ({describe_error(error)})") from error
    # transformers would continue with random numbers in their place.
    if report["missing_keys"]:
        raise CheckpointError(
            f"{folder}: {len(report['missing_keys'])} weights are missing, such as {min(report['missing_keys'])}; "
            "copy all .safetensors files of the model"
        )
    _check_vocabulary(folder, tokenizer, model.get_input_embeddings().weight.shape[0])
    with whole_weights():
        add_event_tokens(model, tokenizer)
    try:
        encoder = PromptEncoder(tokenizer, settings.prompts)
    except CheckpointError as error:
        raise CheckpointError(f"{folder}: {error}") from error
    model.to(device).eval()
    checkpoint = Checkpoint(
        str(name),
        model,
        encoder,
        settings,
        patches,
        float(config.vision_config.tokens_per_second) if config.model_type == "qwen2_5_vl" else None,
        folder,
    )
    # Weights trained here end a turn, and base weights end a text. Other engines read only the saved generation config.
    model.generation_config.eos_token_id = sorted(checkpoint.end_ids)
    return checkpoint


def _check_vocabulary(folder: Path, tokenizer: Any, rows: int) -> None:
    beyond = [token for token, number in tokenizer.get_vocab().items() if number >= rows and token not in EVENT_TOKENS]
    if beyond:
        raise CheckpointError(
            f"{folder}: the tokenizer knows {len(beyond)} tokens beyond the {rows} of the model, such as "
            f"{min(beyond)[:40]!r}; copy all files of one model"
        )
    if tokenizer.pad_token_id is None or not tokenizer("a")["input_ids"]:
        raise CheckpointError(
            f"{folder}: the tokenizer has no padding token, or makes no tokens of words; copy tokenizer.json and "
            "tokenizer_config.json of the model"
        )


def _check_patches(folder: Path, patches: PatchSettings, vision: Any) -> None:
    pairs = {
        "patch_size": (patches.patch_size, vision.patch_size),
        "merge_size": (patches.merge_size, vision.spatial_merge_size),
        "temporal_patch_size": (patches.temporal_patch_size, vision.temporal_patch_size),
    }
    for name, (processor, model) in pairs.items():
        if processor != model:
            raise CheckpointError(
                f"{folder}: {name} is {processor} in the preprocessor file and {model} in config.json; copy all files "
                "of one model"
            )


@contextmanager
def whole_weights() -> Iterator[None]:
    """Keep transformers and peft from splitting a model while it is made, as they do under DeepSpeed's ZeRO-3.

    DeepSpeed still splits it when training begins. If the model were split earlier, its embedding would seem to have
    no rows, so event tokens would be added although they are there. The frequencies of rotary positions would be made
    in bfloat16, which at some thousand positions gives another model than the one that everyone else loads.
    """
    from transformers.integrations import deepspeed

    held = deepspeed._hf_deepspeed_config_weak_ref
    deepspeed._hf_deepspeed_config_weak_ref = None
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = held


def save_checkpoint(folder: Path, model: Any, tokenizer: Any, settings: Settings, patches: PatchSettings) -> None:
    """Write a folder that this package, stock transformers and vLLM load."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    save_companions(folder, tokenizer, settings, patches)


def save_companions(folder: Path, tokenizer: Any, settings: Settings, patches: PatchSettings) -> None:
    """Write what a checkpoint folder holds beside its weights."""
    tokenizer.save_pretrained(folder)
    settings.save(folder)
    shared = {
        "patch_size": patches.patch_size,
        "merge_size": patches.merge_size,
        "temporal_patch_size": patches.temporal_patch_size,
        "image_mean": list(patches.image_mean),
        "image_std": list(patches.image_std),
        "size": {"shortest_edge": patches.min_pixels, "longest_edge": patches.max_pixels},
    }
    # transformers finds the processor class by the model's type. Version 5.22 would move the pixel limits by itself.
    kinds: dict[str, dict[str, Any]] = {
        "preprocessor_config.json": {"image_processor_type": "Qwen2VLImageProcessor"},
        "video_preprocessor_config.json": {
            "video_processor_type": "Qwen2VLVideoProcessor",
            "cap_pixels_per_frame": False,
        },
    }
    for name, kind in kinds.items():
        (folder / name).write_text(json.dumps({**kind, **shared}, indent=2) + "\n")
