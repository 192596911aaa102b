"""Two processes give the gradients and the weights of one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.paths import ROOT
from tests.training.toy import make_data, make_model, maker_for, recipe_content, write_recipe
from videoreasoner.models.checkpoint import load_checkpoint
from videoreasoner.models.tree_batch import token_log_probs
from videoreasoner.rows import read_rows
from videoreasoner.training.cold_start import target_batch

NEAR = 1e-5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("two")
    make_model(made / "model")
    make_data(made / "data")
    return made


def torchrun(*arguments: str | Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, *map(str, arguments)], capture_output=True, text=True, check=False, env=environment, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr[-3000:]


def one_process(folder: Path) -> dict[str, torch.Tensor]:
    checkpoint = load_checkpoint(folder / "model", "cpu")
    maker = maker_for(checkpoint, list(checkpoint.settings.prompts.prefixes))
    rows = list(read_rows(folder / "data" / "plain.jsonl"))[:4]
    examples = [maker.example("rows", row, row.video_path(folder / "data")) for row in rows]
    model: Any = checkpoint.model.train()
    batch = target_batch(examples, checkpoint.encoder.pad_id)
    (-token_log_probs(model, batch, batch.clip_inputs([example.patches for example in examples]))).mean().backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_processes_give_the_gradients_of_one(folder: Path, tmp_path: Path, strategy: str) -> None:
    torchrun(
        ROOT / "tests/training/distributed.py",
        strategy,
        folder / "model",
        folder / "data" / "plain.jsonl",
        tmp_path / "found.pt",
    )
    found, expected = torch.load(tmp_path / "found.pt"), one_process(folder)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() <= NEAR * gradient.norm(), name


def test_a_run_in_two_processes_is_the_run_in_one(folder: Path, tmp_path: Path) -> None:
    """Through the command line; plain gradient descent, since Adam's first steps are signs of gradients."""
    weights, lines, skipped = [], [], []
    # One video is missing, another is none: both are skipped when they come, by whichever process has them.
    rows = [json.loads(line) for line in (folder / "data" / "plain.jsonl").read_text().splitlines()]
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    rows += [{**rows[0], "id": name, "video": str(tmp_path / f"{name}.mp4")} for name in ("broken", "away")]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, launch, batch in [("one", [sys.executable], 4), ("two", [], 2)]:
        content = recipe_content(
            folder,
            path,
            video_root=str(folder / "data"),
            max_skipped_fraction=0.3,
            output_dir=str(tmp_path / name),
            per_device_train_batch_size=batch,
            optim="sgd",
            learning_rate=0.05,
            max_steps=4,
            eval_data=[{"path": str(folder / "data" / "plain.jsonl")}],
            eval_rows=3,
        )
        recipe = write_recipe(tmp_path / f"{name}.yaml", content)
        arguments = ["-m", "videoreasoner", "train", "cold-start", str(recipe)]
        if launch:
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            subprocess.run([*launch, *arguments], check=True, capture_output=True, env=environment)
        else:
            torchrun(*arguments)
        weights.append(load_file(tmp_path / name / "model.safetensors"))
        lines.append((tmp_path / name / "metrics.jsonl").read_text().splitlines())
        skipped.append((tmp_path / name / "skipped.jsonl").read_text())
    start = load_file(folder / "model" / "model.safetensors")
    assert weights[0].keys() == weights[1].keys()
    for name, expected in weights[0].items():
        assert (weights[1][name] - expected).norm() <= NEAR * expected.norm(), name
        assert not torch.equal(start[name], expected), name
    assert skipped[0] == skipped[1]
    assert [json.loads(line)["row"] for line in skipped[0].splitlines()] == ["away", "broken"]
    # Losses, rows, tokens and parse rates are of all processes, not of one.
    for mine, theirs in zip(*lines, strict=True):
        one, two = json.loads(mine), json.loads(theirs)
        for name in one.keys() - {n for n in one if n.startswith(("time/", "memory/"))}:
            assert two[name] == pytest.approx(one[name], rel=1e-4, abs=1e-6), name
