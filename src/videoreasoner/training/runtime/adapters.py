"""The model to train: loaded, quantised if the recipe says so, and with low-rank adapters around it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from videoreasoner.errors import MissingExtraError, SettingError
from videoreasoner.models.checkpoint import Checkpoint, load_checkpoint, whole_weights
from videoreasoner.models.prompt_encoder import PromptEncoder
from videoreasoner.tasks import EVENT_TOKENS
from videoreasoner.training.recipe import SPLIT_TIED, Lora, Recipe

UNQUANTISED = ("model.visual", "lm_head")
"""The names of modules that QLoRA does not quantise begin with one of these. Quantisation harms them most, and they are
the smallest."""


def load_model(recipe: Recipe) -> Checkpoint:
    """The model that training starts from: on the CPU, from where transformers moves it; quantised, on its GPU.

    Raises:
        CheckpointError, SettingError, MissingExtraError: it cannot be loaded; the message says why.
    """
    if "training" in recipe.settings:
        raise SettingError("settings.training: is written by training itself; remove it")
    quantised = quantisation(recipe.lora)
    return load_checkpoint(
        recipe.model_name_or_path,
        device="cpu" if quantised is None else f"cuda:{torch.cuda.current_device()}",
        dtype=getattr(torch, recipe.dtype),
        quantization_config=quantised,
        **recipe.settings,
    )


def load_trained_model(recipe: Recipe, has_fsdp: bool) -> tuple[Checkpoint, Any]:
    """The checkpoint that training starts from, and the model to train: the checkpoint's, or adapters around it.

    Args:
        has_fsdp: whether FSDP splits the weights.

    Raises:
        CheckpointError, SettingError, MissingExtraError: the recipe's model cannot be loaded or adapted here.
    """
    checkpoint = load_model(recipe)
    if recipe.lora and has_fsdp and checkpoint.model.config.tie_word_embeddings:
        raise SettingError(SPLIT_TIED)
    checkpoint.model.model.visual.requires_grad_(not recipe.freeze_vision)
    return checkpoint, add_adapters(checkpoint.model, recipe.lora, checkpoint.encoder, recipe.seed)


def quantisation(lora: Lora | None) -> Any:
    """How the base weights under adapters are quantised (QLoRA, arXiv 2305.14314); None: not at all.

    Raises:
        MissingExtraError: bitsandbytes is not installed.
        SettingError: there is no GPU.
    """
    if lora is None or not lora.load_in_4bit:
        return None
    if not torch.cuda.is_available():
        raise SettingError("lora.load_in_4bit: needs a GPU; remove it to train adapters on plain weights")
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            "lora.load_in_4bit: needs bitsandbytes; install it with: pip install 'videoreasoner[lora]'"
        ) from error
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=list(UNQUANTISED),
    )


def add_adapters(model: Any, lora: Lora | None, encoder: PromptEncoder, seed: int) -> Any:
    """The model with adapters; without `lora`, the model itself.

    The embeddings of the two event tokens are trained as well, because the model has to learn what they mean. The rest
    of the vocabulary is not: a whole embedding matrix would be most of the trained parameters.

    Args:
        model: the transformers model.
        encoder: knows the ids of the event tokens.
        seed: of the initial adapters.

    Raises:
        MissingExtraError: peft is not installed.
        SettingError: `target_modules` matches no layer, or peft cannot adapt one that it matches.
    """
    if lora is None:
        return model
    peft = _peft()
    ids = [encoder.ids[token] for token in EVENT_TOKENS]
    trained = {"embed_tokens": ids}
    if not model.config.tie_word_embeddings:
        trained["lm_head"] = ids
    config = peft.LoraConfig(
        r=lora.r,
        lora_alpha=lora.lora_alpha,
        lora_dropout=lora.lora_dropout,
        target_modules=lora.target_modules,
        trainable_token_indices=trained,
        task_type="CAUSAL_LM",
    )
    # Every start and every process must draw the same initial adapters.
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            with whole_weights():
                return peft.get_peft_model(model, config)
        except ValueError as error:
            raise SettingError(f"lora: {error}") from error


def merged_model(recipe: Recipe, adapter: Path) -> Any:
    """The model of a recipe with trained adapters merged into its weights, on the CPU.

    The base weights are loaded again, because merging into quantised ones would lose what the adapters learned.

    Args:
        adapter: folder of the trained adapters.
    """
    base = load_checkpoint(recipe.model_name_or_path, device="cpu", dtype=getattr(torch, recipe.dtype))
    with whole_weights():
        return _peft().PeftModel.from_pretrained(base.model, adapter).merge_and_unload()


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise MissingExtraError("lora: needs peft; install it with: pip install 'videoreasoner[lora]'") from error
    return peft
