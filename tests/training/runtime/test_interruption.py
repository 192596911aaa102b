"""Ctrl-C while training: a checkpoint, a line that says how to go on, and the weights of an uninterrupted run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback

from tests.training.runtime.runs import content_for, metrics, train
from tests.training.toy import write_recipe
from videoreasoner.errors import Stopped
from videoreasoner.training.cold_start import prepare_cold_start
from videoreasoner.training.recipe import ColdStartRecipe, parse_recipe
from videoreasoner.training.runtime.interruption import Interruption
from videoreasoner.training.runtime.setup import train as train_run

# The command line. In the middle of a step, a signal comes from elsewhere for it and all its processes: Ctrl-C from a
# terminal, or SIGTERM from a launcher.
_PRESSED = """
import os, subprocess, sys
import torch
from videoreasoner.cli.main import main

torch.set_num_threads(1)
step, calls = torch.optim.AdamW.step, [0]

def pressed(*arguments, **named):
    calls[0] += 1
    if calls[0] == 3:
        subprocess.run(["kill", f"-{sys.argv[1]}", "--", f"-{os.getpgrp()}"])
    return step(*arguments, **named)

torch.optim.AdamW.step = pressed
main(sys.argv[2:])
"""


class Press(TrainerCallback):
    """Sends signals before a step."""

    def __init__(self, step: int, *numbers: int) -> None:
        self.step, self.numbers = step, numbers

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step:
            for number in self.numbers:
                os.kill(os.getpid(), number)


def interrupted(content: dict[str, Any], press: Press) -> str:
    """Train until `press` stops it; what the error says."""
    trainer = prepare_cold_start(parse_recipe(content, ColdStartRecipe))
    trainer.add_callback(press)
    with pytest.raises(Stopped) as caught:
        train_run(trainer)
    return str(caught.value)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_saves_a_checkpoint_says_how_to_go_on_and_goes_on(
    number: int, folder: Path, tmp_path: Path
) -> None:
    straight = content_for(folder, tmp_path / "straight", dataloader_num_workers=1, save_steps=100)
    train(straight)
    content = {**straight, "output_dir": str(tmp_path / "out")}
    recipe = write_recipe(tmp_path / "recipe.yaml", content)
    done = subprocess.run(
        [sys.executable, "-c", _PRESSED, str(int(number)), "train", "cold-start", str(recipe)],
        capture_output=True,
        text=True,
        check=False,
        start_new_session=True,
        timeout=200,
    )
    assert done.returncode == 130, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    last = f"stopped at step 3 of 6; the same command goes on from {tmp_path / 'out' / 'checkpoint-3'}"
    assert done.stderr.splitlines()[-1] == last
    assert [line for line in done.stderr.splitlines() if line.startswith("stopped")] == [last]
    assert not (tmp_path / "out" / "model.safetensors").exists()
    train(content)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("out", "straight")]
    assert weights[0] == weights[1]
    assert [line["step"] for line in metrics(tmp_path / "out")] == list(range(1, 7))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_training_stops_after_the_step(number: int, folder: Path, tmp_path: Path) -> None:
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    said = interrupted(content_for(folder, tmp_path / "out", save_steps=100), Press(1, number))
    assert [path.name for path in (tmp_path / "out").glob("checkpoint-*")] == ["checkpoint-2"]
    assert said.startswith("stopped at step 2 of 6; the same command goes on from ")
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert not (tmp_path / "out" / ".lock").exists()


def test_a_second_ctrl_c_stops_at_once(folder: Path, tmp_path: Path) -> None:
    said = interrupted(content_for(folder, tmp_path / "out"), Press(3, signal.SIGINT, signal.SIGINT))
    assert [path.name for path in (tmp_path / "out").glob("checkpoint-*")] == ["checkpoint-2"]
    assert said.startswith(f"stopped at step 3 of 6; the same command goes on from {tmp_path}")
    said = interrupted(content_for(folder, tmp_path / "none"), Press(0, signal.SIGINT, signal.SIGINT))
    assert said == "stopped at step 0 of 6; there is no checkpoint yet"


def test_in_the_last_step_the_run_is_finished(folder: Path, tmp_path: Path) -> None:
    trainer = prepare_cold_start(parse_recipe(content_for(folder, tmp_path / "out"), ColdStartRecipe))
    trainer.add_callback(Press(5, signal.SIGINT))
    train_run(trainer)
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_another_thread_leaves_the_signals_alone(folder: Path, tmp_path: Path) -> None:
    trainer = prepare_cold_start(parse_recipe(content_for(folder, tmp_path / "out"), ColdStartRecipe))
    seen = []

    def listen() -> None:
        before = signal.getsignal(signal.SIGINT)
        with Interruption(trainer).listening():
            seen.append(signal.getsignal(signal.SIGINT) is before)

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert seen == [True]
