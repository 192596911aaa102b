from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from experiments.tiny import training
from experiments.tiny.model import new_model
from experiments.tiny.stages import BASE_STAGES, TASK_STAGES, Stage
from experiments.tiny.training import STATE_FILE, train
from videoreasoner.errors import CheckpointError
from videoreasoner.models.prompt_encoder import PromptEncoder

GLANCES = Stage("glances", "glances", 4, 2, 5e-4, seed=0)


def _train(
    encoder: PromptEncoder, stage: Stage, out: Path, report: Callable[[str], None] = lambda line: None
) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Losses and weights of a training from new weights."""
    model = new_model(encoder.tokenizer)
    losses = train(model, encoder, stage, out, workers=0, report=report)
    return losses, {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize(
    ("name", "losses"),
    [
        ("glances", [47.6554, 37.2905, 36.2931]),
        ("captions", [78.2481, 52.5886, 111.4924]),
        ("tasks", [43.4810, 37.2656, 43.5513]),
        ("moments", [63.3137, 61.0114, 39.0970]),
    ],
)
def test_first_losses_are_those_that_were_recorded(
    encoder: PromptEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, losses: list[float]
) -> None:
    """The loop that trained the shipped checkpoints gave these, on videos of the split of today.

    On videos of the split of its time, this loop gives the losses of that one, too.
    """
    monkeypatch.setattr(training, "_WARMUP", 2)
    [stage] = [stage for stage in (*BASE_STAGES, *TASK_STAGES) if stage.name == name]
    found, _ = _train(encoder, replace(stage, steps=3, videos_per_step=4), tmp_path)
    assert found == pytest.approx(losses, rel=1e-4)


def test_a_killed_run_ends_with_the_same_weights_bit_for_bit(
    encoder: PromptEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "SAVE_EVERY", 2)
    _, straight = _train(encoder, GLANCES, tmp_path / "straight")

    class Killed(Exception):
        pass

    def die(line: str) -> None:
        # The state of step 2 has been saved before the line of step 4.
        if line.startswith("step 4"):
            raise Killed

    with pytest.raises(Killed):
        _train(encoder, GLANCES, tmp_path / "killed", die)
    losses, resumed = _train(encoder, GLANCES, tmp_path / "killed")
    assert len(losses) == 2
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)


def test_training_lowers_the_loss(encoder: PromptEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "_WARMUP", 5)
    losses, _ = _train(encoder, replace(GLANCES, steps=30, videos_per_step=4, learning_rate=1e-3), tmp_path)
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


def test_a_frozen_vision_tower_stays_as_it_is(encoder: PromptEncoder, tmp_path: Path) -> None:
    before = new_model(encoder.tokenizer).state_dict()
    _, after = _train(encoder, replace(GLANCES, steps=1, train_vision=False), tmp_path)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert not any(".visual." in name for name in changed)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_state(
    encoder: PromptEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "SAVE_EVERY", 1)
    monkeypatch.setattr(training, "_WARMUP", 1)
    with pytest.raises(CheckpointError, match="the loss is"):
        _train(encoder, replace(GLANCES, learning_rate=1e30), tmp_path)
    assert torch.load(tmp_path / STATE_FILE, weights_only=True)["step"] >= 1
