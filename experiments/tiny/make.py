"""Make the shipped checkpoints: `tiny-base`, `tiny` and `tiny-encoder`."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen2Tokenizer, Qwen2VLForConditionalGeneration

from experiments.tiny.encoder import train_encoder
from experiments.tiny.familiarity import FAMILIAR_VIDEOS, fit_familiarity
from experiments.tiny.model import PATCHES, PROMPTS, SETTINGS, new_model
from experiments.tiny.stages import BASE_STAGES, ENCODER_STEPS, TASK_STAGES, Stage
from experiments.tiny.training import train
from experiments.tiny.vocabulary import learn_tokenizer
from videoreasoner.models.attention import IMPLEMENTATION
from videoreasoner.models.checkpoint import save_checkpoint
from videoreasoner.models.event_tokens import add_event_tokens, extend_tokenizer
from videoreasoner.models.prompt_encoder import PromptEncoder


def make_checkpoints(
    out: Path,
    base_stages: Sequence[Stage] = BASE_STAGES,
    task_stages: Sequence[Stage] = TASK_STAGES,
    encoder_steps: int = ENCODER_STEPS,
    familiar_videos: int = FAMILIAR_VIDEOS,
    report: Callable[[str], None] = print,
) -> None:
    """Train the three checkpoints, one after another. Finished ones are kept, and an interrupted stage resumes.

    Raises:
        CheckpointError: a loss is not finite.
    """
    if not _is_finished(out / "tiny-encoder"):
        report("tiny-encoder: text and frames")
        train_encoder(out / "tiny-encoder", steps=encoder_steps, report=report)
    base = out / "tiny-base"
    if not _is_finished(base):
        tokenizer = learn_tokenizer(PROMPTS)
        # Saved without the event tokens, which the base model has never seen.
        plain = copy.deepcopy(tokenizer)
        extend_tokenizer(tokenizer)
        model = new_model(tokenizer)
        _train_stages(base_stages, model, tokenizer, out, report)
        _save(base, model, plain, base_stages)
        fit_familiarity(base, familiar_videos, report)
    if not _is_finished(out / "tiny"):
        model = Qwen2VLForConditionalGeneration.from_pretrained(base, attn_implementation=IMPLEMENTATION)
        tokenizer = Qwen2Tokenizer.from_pretrained(base)
        add_event_tokens(model, tokenizer)
        _train_stages(task_stages, model, tokenizer, out, report)
        _save(out / "tiny", model, tokenizer, [*base_stages, *task_stages])
        fit_familiarity(out / "tiny", familiar_videos, report)


def _train_stages(
    stages: Sequence[Stage], model: Any, tokenizer: Qwen2Tokenizer, out: Path, report: Callable[[str], None]
) -> None:
    for stage in stages:
        report(f"{stage.name}: {stage.steps} steps of {stage.videos_per_step} videos")
        train(model, PromptEncoder(tokenizer, PROMPTS), stage, out / stage.name, report=report)


def _save(folder: Path, model: Any, tokenizer: Qwen2Tokenizer, stages: Sequence[Stage]) -> None:
    settings = SETTINGS.changed(training={"stages": [asdict(stage) for stage in stages]})
    save_checkpoint(folder, model, tokenizer, settings, PATCHES)


def _is_finished(folder: Path) -> bool:
    return (folder / "model.safetensors").is_file()


if __name__ == "__main__":
    torch.set_num_threads(1)
    make_checkpoints(Path(sys.argv[1] if len(sys.argv) > 1 else "out/tiny"))
