"""Loading and saving checkpoints: a Hugging Face folder plus `videoreasoner.json`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from videoreasoner.errors import CheckpointError, SettingError
from videoreasoner.models.event_tokens import add_event_tokens
from videoreasoner.models.prompt_encoder import PromptEncoder
from videoreasoner.settings import Settings
from videoreasoner.video.patches import PatchSettings

SHIPPED = Path(__file__).parent.parent / "checkpoints"
FAMILIES = {
    "qwen2_vl": "Qwen2VLForConditionalGeneration",
    "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration",
}
_WEIGHTS = "*.safetensors"
_SMALL_FILES = ["*.json", "*.txt", "*.jinja", "*.model"]
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
        rows = self.model.get_output_embeddings().weight.shape[0]
        beyond = range(len(self.encoder.tokenizer), rows)
        return tuple({i for i in ids if i is not None and 0 <= i < rows} | set(beyond))


def is_hub_id(name: str) -> bool:
    """Whether a name that is no folder here reads as organisation/model."""
    return name.count("/") == 1 and not name.startswith((".", "/", "~"))


def find_folder(name: str | Path, *, weights: bool = True) -> Path:
    """The folder of a shipped checkpoint, a path, or a Hugging Face id (downloaded, or from its cache).

    Args:
        name: of the checkpoint, or of a text-image encoder.
        weights: whether they are to be downloaded, too, where the name is an id.

    Raises:
        CheckpointError: there is no such thing, or the hub cannot be reached.
    """
    text = str(name)
    if not text.strip():
        raise CheckpointError("the name of a model or encoder is empty; give a name, a folder or a Hugging Face id")
    if (SHIPPED / text / "config.json").is_file():
        return SHIPPED / text
    path = Path(text).expanduser()
    if path.is_dir():
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
        return Path(snapshot_download(text, allow_patterns=[*_SMALL_FILES, *([_WEIGHTS] if weights else [])]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise CheckpointError(
            f"{text}: not a folder here, and it cannot be fetched from the Hugging Face hub "
            f"({type(error).__name__}); check the name and the network"
        ) from error


def read_config(folder: Path) -> dict[str, Any]:
    """The checkpoint's config.json, after checking that it describes a model that can be loaded.

    Raises:
        CheckpointError: no checkpoint, or an unsupported family.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise CheckpointError(f"{folder}: no config.json, so this is no checkpoint folder")
    try:
        config: dict[str, Any] = json.loads(path.read_text())
        family = config.get("model_type")
    except (ValueError, AttributeError) as error:
        raise CheckpointError(f"{path}: not a model configuration ({error})") from error
    if family in ("qwen3_vl", "qwen3_vl_moe"):
        raise CheckpointError(
            f"{folder}: Qwen3-VL is not supported yet: its timestamps and deepstack features do not go through "
            f"the prompt tree; use a checkpoint of {' or '.join(FAMILIES)}"
        )
    if family not in FAMILIES:
        raise CheckpointError(f"{folder}: model type {family!r} is not supported; use one of {', '.join(FAMILIES)}")
    # transformers would fill a gap with the defaults of a model of 8 B parameters.
    if not isinstance(config.get("vision_config"), dict) or not (
        isinstance(config.get("text_config"), dict) or "hidden_size" in config
    ):
        raise CheckpointError(f"{path}: not a model configuration (it does not describe both vision and text model)")
    return config


def _check_weights(folder: Path) -> None:
    if not any(folder.glob(_WEIGHTS)) or _pickled_shards(folder):
        raise CheckpointError(
            f"{folder}: no .safetensors weights; pickled weights are refused, because loading them runs code. "
            "Convert them with save_pretrained(..., safe_serialization=True) where you trust them"
        )


def _pickled_shards(folder: Path) -> set[str]:
    """Files that the index of the weights names and that are no safetensors: transformers would open them."""
    path = folder / "model.safetensors.index.json"
    if not path.is_file():
        return set()
    try:
        names = json.loads(path.read_text())["weight_map"].values()
        return {name for name in names if not name.endswith(".safetensors")}
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: not an index of weights ({type(error).__name__}: {error})") from error


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
    quantization_config: Any = None,
    **overrides: Any,
) -> Checkpoint:
    """Load any Qwen2-VL or Qwen2.5-VL checkpoint and add the event tokens where they are missing.

    Args:
        name: a shipped checkpoint, a folder or a Hugging Face id.
        device: a torch device, or "auto": the first GPU, else the CPU.
        dtype: of the weights; by default bfloat16 on a GPU and float32 on a CPU.
        quantization_config: transformers' own, for training adapters on quantised weights.
        overrides: fields of `Settings` that replace the checkpoint's own; None leaves them.

    Raises:
        CheckpointError: it cannot be loaded; the message says why.
        SettingError: an override makes no sense, or there is no such device.
    """
    import transformers

    from videoreasoner.models.attention import IMPLEMENTATION

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    # Check everything that can be checked before gigabytes are downloaded.
    check_device(device)
    described = find_folder(name, weights=False)
    config = read_config(described)
    settings = Settings.load(described).changed(**overrides)
    folder = find_folder(name)
    _check_weights(folder)
    if dtype is None:
        dtype = torch.float32 if device == "cpu" else torch.bfloat16
    family = getattr(transformers, FAMILIES[config["model_type"]])
    try:
        # Python code in the folder is refused without asking on the terminal.
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        with whole_weights():
            model, report = family.from_pretrained(
                folder,
                dtype=dtype,
                attn_implementation=IMPLEMENTATION,
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
    with whole_weights():
        add_event_tokens(model, tokenizer)
    try:
        encoder = PromptEncoder(tokenizer, settings.prompts)
    except CheckpointError as error:
        raise CheckpointError(f"{folder}: {error}") from error
    model.to(device).eval()
    vision = model.config.vision_config
    patches = PatchSettings.from_folder(folder, min_pixels=settings.min_pixels, max_pixels=settings.max_pixels)
    checkpoint = Checkpoint(
        str(name),
        model,
        encoder,
        settings,
        patches,
        float(vision.tokens_per_second) if config["model_type"] == "qwen2_5_vl" else None,
        folder,
    )
    # Weights trained here end a turn, and base weights end a text. Other engines read only the saved generation config.
    model.generation_config.eos_token_id = sorted(checkpoint.end_ids)
    return checkpoint


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
