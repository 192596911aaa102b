"""Weights, gradients and optimizer split over processes (ZeRO-2, ZeRO-3, FSDP2) train the model that whole ones do.

The profiles of recipes/accelerate, in two processes on a CPU (see on_cpu.py). Run by `make test-split`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.training.toy import make_data, make_model, recipe_content, write_recipe

ROOT = Path(__file__).parents[2]
PROFILES = ["zero2", "zero3", "fsdp2"]
METRICS = ("loss", "grad_norm", "rows", "tokens", "learning_rate")
ADAPTERS = {"lora": {"r": 4, "lora_alpha": 8, "lora_dropout": 0.0}}

pytest.importorskip("deepspeed", reason="make test-split installs it")
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("split")
    make_model(made / "model")
    make_model(made / "untied", tied=False)
    make_data(made / "data")
    return made


def launch(folder: Path, out: Path, profile: str, kind: str = "cold-start", **changes: Any) -> tuple[int, str]:
    """Exit code and stderr of a run in two processes; `whole` is plain data parallelism in mixed precision."""
    content = recipe_content(folder, folder / "data" / "plain.jsonl", output_dir=str(out))
    content |= {"per_device_train_batch_size": 1, "max_steps": 4, "dtype": "bfloat16", "bf16": True}
    if profile == "whole":
        content |= {"dtype": "float32"}
        command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "videoreasoner"]
    else:
        content |= {"trainer": {"use_cpu": False}}
        settings = ["--config_file", f"recipes/accelerate/{profile}.yaml", "--num_processes", "2"]
        command = ["-m", "accelerate.commands.launch", *settings, "tests/split/on_cpu.py"]
    recipe = write_recipe(out.parent / f"{out.name}.yaml", {**content, **changes})
    done = subprocess.run(
        [sys.executable, *command, "train", kind, str(recipe)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "DS_ACCELERATOR": "cpu",
            "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        },
    )
    return done.returncode, done.stderr


def train(folder: Path, out: Path, profile: str, kind: str = "cold-start", **changes: Any) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl of a run."""
    code, said = launch(folder, out, profile, kind, **changes)
    assert code == 0, said[-4000:]
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def metrics(lines: list[dict[str, Any]]) -> list[dict[str, float]]:
    return [{name: line[name] for name in METRICS} for line in lines]


@pytest.fixture(scope="module")
def whole(folder: Path) -> list[dict[str, Any]]:
    return train(folder, folder / "whole", "whole")


@pytest.mark.parametrize("profile", PROFILES)
def test_split_weights_train_and_resume_as_whole_ones(folder: Path, tmp_path: Path, whole: Any, profile: str) -> None:
    lines = train(folder, out := tmp_path / "out", profile)
    for mine, theirs in zip(metrics(lines), metrics(whole), strict=True):
        assert mine == pytest.approx(theirs, rel=0.2)
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=0.01)
        assert (mine["rows"], mine["tokens"]) == (theirs["rows"], theirs["tokens"])
    ours, expected = load_file(out / "model.safetensors"), load_file(folder / "whole" / "model.safetensors")
    # Tied output layers may be there by a name of their own.
    assert ours.keys() - {"lm_head.weight"} == expected.keys()
    for name, weight in expected.items():
        assert ours[name].shape == weight.shape, name
        assert (ours[name].float() - weight).abs().max() < 0.01, name

    shutil.rmtree(out / "checkpoint-4")
    (out / "config.json").unlink()
    assert metrics(train(folder, out, profile)) == metrics(lines)
    again = load_file(out / "model.safetensors")
    assert all(torch.equal(weight, again[name]) for name, weight in ours.items())


def test_zero_3_begins_with_the_weights_and_positions_of_zero_2(folder: Path, tmp_path: Path) -> None:
    """transformers would make rotary frequencies in bfloat16, and find embeddings without rows."""
    first = [train(folder, tmp_path / profile, profile, max_steps=2)[0]["loss"] for profile in ("zero2", "zero3")]
    assert first[0] == pytest.approx(first[1], rel=1e-6)


@pytest.mark.parametrize("profile", PROFILES)
def test_adapters(folder: Path, tmp_path: Path, profile: str) -> None:
    changes = {**ADAPTERS, "model_name_or_path": str(folder / "untied"), "max_steps": 2}
    whole = train(folder, tmp_path / "whole", "whole", **changes)
    lines = train(folder, out := tmp_path / profile, profile, **changes)
    for mine, theirs in zip(metrics(lines), metrics(whole), strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=0.01)
    ours, expected = load_file(out / "model.safetensors"), load_file(tmp_path / "whole" / "model.safetensors")
    assert ours.keys() == expected.keys()
    assert all((ours[name].float() - weight.float()).abs().max() < 0.02 for name, weight in expected.items())


def test_grpo_on_split_gradients(folder: Path, tmp_path: Path) -> None:
    """In a step without advantages the schedule continues and the weights stay. Held-out rows are sampled."""
    rewards = tmp_path / "rewards.py"
    rewards.write_text(
        "calls = []\n"
        "def uneven(completion_ids, **_):\n"
        "    calls.append(1)\n"
        "    return [float(sum(ids) % 7) * (len(calls) != 2) for ids in completion_ids]\n"
    )
    changes = {"rewards": {f"{rewards}:uneven": 1.0}, "num_generations": 4, "max_completion_length": 12}
    changes |= {"tasks": ["answer"], "max_steps": 3, "save_steps": 1, "save_total_limit": 3, "skip_flat_groups": True}
    changes |= {"eval_data": [{"path": str(folder / "data" / "plain.jsonl")}], "eval_rows": 3}
    before, *lines = train(folder, out := tmp_path / "out", "zero2", "grpo", **changes)
    assert (before["step"], before.keys()) == (0, {"step", *(name for name in before if "held_out/" in name)})
    samples = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    assert [sample["step"] for sample in samples] == [0, 0, 0, 3, 3, 3]
    assert [line["zero_variance_groups"] for line in lines] == [0.0, 1.0, 0.0]
    assert [line["grad_norm"] > 0 for line in lines] == [True, False, True]
    assert [line["learning_rate"] for line in lines] == pytest.approx([1e-3, 7.5e-4, 2.5e-4])
    first, second, third = (load_file(out / f"checkpoint-{step}" / "model.safetensors") for step in (1, 2, 3))
    assert all(torch.equal(weight, second[name]) for name, weight in first.items())
    assert not all(torch.equal(weight, third[name]) for name, weight in second.items())
    assert all(line["rollout_mismatch"] < 0.05 for line in lines if "rollout_mismatch" in line)


@pytest.mark.parametrize(
    ("profile", "kind", "changes", "message"),
    [
        ("zero2", "cold-start", {"bf16": False}, "set bf16=true"),
        ("fsdp2", "cold-start", ADAPTERS, "its output layer is its embedding"),
        ("zero3", "grpo", {}, "GRPO samples from whole weights"),
    ],
)
def test_weights_that_cannot_be_split_are_refused_before_the_folder_is_claimed(
    folder: Path, tmp_path: Path, profile: str, kind: str, changes: dict[str, Any], message: str
) -> None:
    code, said = launch(folder, tmp_path / "out", profile, kind, **changes)
    assert code != 0
    assert message in said
    assert not (tmp_path / "out" / "run.json").exists()
