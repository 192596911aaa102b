from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Qwen2VLForConditionalGeneration

from experiments.tiny import pretraining
from experiments.tiny.encoder_training import CAPTIONS, frames_and_truth, train_encoder
from experiments.tiny.lessons import LessonSettings
from experiments.tiny.make import PATCHES, PROMPTS, SETTINGS, Stage, make_checkpoints, new_model
from experiments.tiny.pretraining import train
from experiments.tiny.vocabulary import learn_tokenizer
from videoreasoner.errors import CheckpointError
from videoreasoner.models.checkpoint import load_checkpoint
from videoreasoner.models.event_tokens import extend_tokenizer
from videoreasoner.models.prompt_encoder import PromptEncoder
from videoreasoner.retrieval.encoder import load_encoder


@pytest.fixture(scope="module")
def encoder() -> PromptEncoder:
    tokenizer = learn_tokenizer(PROMPTS)
    extend_tokenizer(tokenizer)
    return PromptEncoder(tokenizer, PROMPTS)


def _train(encoder: PromptEncoder, out: Path, **changes: object) -> dict[str, torch.Tensor]:
    model = new_model(encoder.tokenizer)
    arguments = {"steps": 4, "batch_size": 2, "workers": 0, "report": lambda line: None, **changes}
    train(model, encoder, LessonSettings(SETTINGS.sampling, PATCHES), "glances", out, **arguments)  # type: ignore[arg-type]
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_a_killed_run_ends_with_the_same_weights_bit_for_bit(
    encoder: PromptEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretraining, "SAVE_EVERY", 2)
    straight = _train(encoder, tmp_path / "straight")

    class Killed(Exception):
        pass

    def die(line: str) -> None:
        # The resume point of step 2 is written before the line of step 4.
        if line.startswith("step 4"):
            raise Killed

    with pytest.raises(Killed):
        _train(encoder, tmp_path / "killed", report=die)
    resumed = _train(encoder, tmp_path / "killed")
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)


def test_training_lowers_the_loss(encoder: PromptEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretraining, "SAVE_EVERY", 10)
    lines: list[str] = []
    _train(encoder, tmp_path, steps=40, batch_size=8, learning_rate=1e-3, warmup=5, report=lines.append)
    losses = [float(line.split("loss ")[1].split()[0]) for line in lines]
    assert losses[-1] < losses[0] * 0.8


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_state(
    encoder: PromptEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretraining, "SAVE_EVERY", 1)
    with pytest.raises(CheckpointError, match="the loss is"):
        _train(encoder, tmp_path, learning_rate=1e30, warmup=1)
    state = torch.load(tmp_path / pretraining.RESUME_FILE, weights_only=True)
    assert state["step"] >= 1


def test_the_recipe_makes_three_checkpoints_that_load(tmp_path: Path) -> None:
    glances, tasks = (
        Stage("glances", "glances", 2, 2, 1e-3, 0),
        Stage("tasks", "tasks", 2, 2, 1e-3, 1, train_vision=False),
    )
    lines: list[str] = []
    make_checkpoints(tmp_path, [glances], [tasks], encoder_steps=2, report=lines.append)
    base, tiny = (load_checkpoint(tmp_path / name) for name in ("tiny-base", "tiny"))
    assert tiny.settings.prompts == PROMPTS
    assert tiny.settings.training["stages"][0]["lessons"] == "glances"
    assert "<|event_start|>" not in (tmp_path / "tiny-base" / "tokenizer.json").read_text()
    assert "<|event_start|>" in (tmp_path / "tiny" / "tokenizer.json").read_text()
    assert base.model.num_parameters() == tiny.model.num_parameters()
    assert Qwen2VLForConditionalGeneration.from_pretrained(tmp_path / "tiny").config.model_type == "qwen2_vl"
    assert load_encoder(tmp_path / "tiny-encoder").encode_texts(["red circle"]).shape == (1, 64)
    before = (tmp_path / "tiny" / "model.safetensors").stat().st_mtime_ns
    make_checkpoints(tmp_path, [glances], [tasks], encoder_steps=2, report=lines.append)
    assert (tmp_path / "tiny" / "model.safetensors").stat().st_mtime_ns == before


def test_the_encoder_learns_which_captions_are_true(tmp_path: Path) -> None:
    train_encoder(tmp_path, steps=60, batch_size=64, report=lambda line: None)
    encoder = load_encoder(tmp_path)
    images, truth = frames_and_truth(np.random.default_rng(77), 200)
    best = (encoder.encode_images(images) @ encoder.encode_texts(CAPTIONS).T).argmax(1)
    right = truth[torch.arange(len(best)), best].float().mean().item()
    chance = truth.float().mean().item()
    assert right > 3 * chance
