from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from experiments.tiny.encoder import CAPTIONS, frames_and_truth, train_encoder
from videoreasoner.retrieval.encoder import load_encoder


def test_the_encoder_learns_which_captions_are_true(tmp_path: Path) -> None:
    train_encoder(tmp_path, steps=40, batch_size=48, report=lambda line: None)
    encoder = load_encoder(tmp_path)
    images, truth = frames_and_truth(np.random.default_rng(77), 200)
    best = (encoder.encode_images(images) @ encoder.encode_texts(CAPTIONS).T).argmax(1)
    right = truth[torch.arange(len(best)), best].float().mean().item()
    assert right > 3 * truth.float().mean().item()


def test_first_steps_are_those_that_were_recorded(tmp_path: Path) -> None:
    """The code that trained the shipped encoder gave this, on videos of the split of today."""
    lines: list[str] = []
    train_encoder(tmp_path, steps=3, batch_size=16, report=lines.append)
    assert float(lines[-1].split()[3]) == pytest.approx(7.254, abs=0.002)
