"""Weights, gradients and optimizer split over processes (ZeRO-2, ZeRO-3, FSDP2) train the model that whole ones do.

The profiles accelerate/*, in two processes on a CPU (see on_cpu.py). Run by `make test-split`.
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
import yaml
from safetensors.torch import load_file

from tests.training.toy import make_data, make_model, recipe_content, write_recipe
from videoreasoner.models.checkpoint import load_checkpoint

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
    """Exit code and stderr of a run in two processes.

    Args:
        profile: without accelerate/; with -float32, in that precision. `whole` is plain data parallelism in mixed
            precision.
    """
    content = recipe_content(folder, folder / "data" / "plain.jsonl", output_dir=str(out))
    content |= {"per_device_train_batch_size": 1, "max_steps": 4, "dtype": "bfloat16", "bf16": True}
    if profile == "whole":
        content |= {"dtype": "float32"}
        command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "videoreasoner"]
    else:
        content |= {"trainer": {"use_cpu": False}}
        name, _, precision = profile.partition("-")
        settings = yaml.safe_load((ROOT / f"src/videoreasoner/recipes/accelerate/{name}.yaml").read_text())
        settings |= {"num_processes": 2, **({"mixed_precision": "no"} if precision else {})}
        written = out.parent / f"launch-{profile}.yaml"
        written.write_text(yaml.safe_dump(settings))
        command = ["-m", "accelerate.commands.launch", "--config_file", str(written), "tests/split/on_cpu.py"]
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
            "PYTHONPATH": os.pathsep.join(
                [str(ROOT), str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
            ),
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


REWARDS = """
import os
calls = 0

def by_ids(completion_ids, **_):
    return [float(sum(ids) % 7) for ids in completion_ids]

def uneven(completion_ids, **_):
    # In the first step one process has a group with advantages, in the second none, in the third both.
    global calls
    calls += 1
    learns = calls == 3 or (calls == 1 and os.environ["RANK"] == "1")
    return [float(sum(ids) % 7) if learns else 1.0 for ids in completion_ids]
"""


def grpo(folder: Path, reward: str, **changes: Any) -> dict[str, Any]:
    (folder / "rewards.py").write_text(REWARDS)
    return {
        "rewards": {f"{folder / 'rewards.py'}:{reward}": 1.0},
        "num_generations": 4,
        "max_completion_length": 12,
        "eval_data": [{"path": str(folder / "data" / "plain.jsonl")}],
        "eval_rows": 3,
        **changes,
    }


def exact_grpo(folder: Path) -> dict[str, Any]:
    """Two rollouts of two micro-batches a process, two updates on each; plain descent keeps proportions."""
    steps = {"max_steps": 4, "num_iterations": 2, "gradient_accumulation_steps": 2, "recorded_rollouts": 99}
    exact = {"dtype": "float32", "bf16": False, "optim": "sgd", "learning_rate": 0.05, "lr_scheduler_type": "constant"}
    return grpo(folder, "by_ids", tasks=["event", "answer"], **steps, **exact)


def lines_of(path: Path) -> list[str]:
    return sorted(path.read_text().splitlines())


@pytest.fixture(scope="module")
def whole_grpo(folder: Path) -> Path:
    train(folder, out := folder / "whole-grpo", "whole", "grpo", **exact_grpo(folder))
    return out


@pytest.mark.parametrize("profile", PROFILES)
def test_grpo_samples_and_learns_as_with_whole_weights(
    folder: Path, tmp_path: Path, whole_grpo: Path, profile: str
) -> None:
    """The weights are gathered for rollouts, held-out rows and the reference. In float32, nothing rounds apart."""
    lines = train(folder, out := tmp_path / "out", f"{profile}-float32", "grpo", **exact_grpo(folder))
    expected = [json.loads(line) for line in (whole_grpo / "metrics.jsonl").read_text().splitlines()]
    assert any(line.get("kl", 0) > 1e-7 for line in expected)
    for mine, theirs in zip(lines, expected, strict=True):
        names = {name for name in theirs if not name.startswith(("time/", "memory/"))}
        assert names == {name for name in mine if not name.startswith(("time/", "memory/"))}
        assert {name: mine[name] for name in names} == pytest.approx(
            {name: theirs[name] for name in names}, rel=1e-3, abs=1e-5
        )
    assert lines_of(out / "samples.jsonl") == lines_of(whole_grpo / "samples.jsonl")
    rollouts = [json.loads(line) for line in lines_of(out / "rollouts.jsonl")]
    others = [json.loads(line) for line in lines_of(whole_grpo / "rollouts.jsonl")]
    assert rollouts
    assert rollouts == others
    start, ours = (load_file(path / "model.safetensors") for path in (folder / "model", out))
    for name, weight in load_file(whole_grpo / "model.safetensors").items():
        assert (ours[name] - weight).norm() <= 1e-4 * (weight - start[name]).norm(), name
    load_checkpoint(out, "cpu")


@pytest.mark.parametrize("profile", ["zero3", "fsdp2"])
def test_grpo_resumed_is_uninterrupted(folder: Path, tmp_path: Path, profile: str) -> None:
    changes = grpo(folder, "by_ids", tasks=["answer"], eval_rows=1)
    lines = train(folder, out := tmp_path / "out", profile, "grpo", **changes)[1:]
    ours = load_file(out / "model.safetensors")
    shutil.rmtree(out / "checkpoint-4")
    (out / "config.json").unlink()
    again = train(folder, out, profile, "grpo", **changes)[1:]
    assert metrics(again) == metrics(lines)
    assert [line["kl"] for line in again] == [line["kl"] for line in lines]
    assert all(torch.equal(weight, ours[name]) for name, weight in load_file(out / "model.safetensors").items())


@pytest.mark.parametrize("profile", PROFILES)
def test_grpo_where_processes_have_unequal_work(folder: Path, tmp_path: Path, profile: str) -> None:
    """One process has nothing to learn, then both; the schedule continues, and such a step changes no weight."""
    changes = grpo(folder, "uneven", tasks=["answer"], max_steps=3, save_steps=1, save_total_limit=3, beta=0.0)
    changes |= {"freeze_vision": True, "eval_rows": 1}
    before, *lines = train(folder, out := tmp_path / "out", profile, "grpo", **changes)
    assert (before["step"], before.keys()) == (0, {"step", *(name for name in before if "held_out/" in name)})
    assert [json.loads(line)["step"] for line in lines_of(out / "samples.jsonl")] == [0, 3]
    assert [line["zero_variance_groups"] for line in lines] == [0.5, 1.0, 0.0]
    assert [line["grad_norm"] > 0 for line in lines] == [True, False, True]
    assert [line["learning_rate"] for line in lines] == pytest.approx([1e-3, 7.5e-4, 2.5e-4])
    first, second, third = (load_file(out / f"checkpoint-{step}" / "model.safetensors") for step in (1, 2, 3))
    assert all(torch.equal(weight, second[name]) for name, weight in first.items())
    assert not all(torch.equal(weight, third[name]) for name, weight in second.items())
    assert all(line["rollout_mismatch"] < 0.05 for line in lines if "rollout_mismatch" in line)


@pytest.mark.parametrize("profile", ["zero3", "fsdp2"])
def test_grpo_with_adapters(folder: Path, tmp_path: Path, profile: str) -> None:
    """The reference is the gathered model without its adapters."""
    changes = grpo(folder, "by_ids", tasks=["answer"], max_steps=3, model_name_or_path=str(folder / "untied"))
    lines = train(folder, out := tmp_path / "out", profile, "grpo", **{**changes, **ADAPTERS})[1:]
    assert lines[0]["kl"] == pytest.approx(0, abs=1e-4)
    assert lines[2]["kl"] > 1e-4
    assert all(line["rollout_mismatch"] < 0.05 for line in lines)
    start, ours = (load_file(path / "model.safetensors") for path in (folder / "untied", out))
    assert any(not torch.equal(weight, ours[name]) for name, weight in start.items())


@pytest.mark.parametrize(
    ("profile", "kind", "changes", "message"),
    [
        ("zero2", "cold-start", {"bf16": False}, "set bf16=true"),
        ("fsdp2", "cold-start", ADAPTERS, "its output layer is its embedding"),
    ],
)
def test_weights_that_cannot_be_split_are_refused_before_the_folder_is_claimed(
    folder: Path, tmp_path: Path, profile: str, kind: str, changes: dict[str, Any], message: str
) -> None:
    code, said = launch(folder, tmp_path / "out", profile, kind, **changes)
    assert code != 0
    assert message in said
    assert not (tmp_path / "out" / "run.json").exists()
