"""GRPO end to end on real videos with the shipped tiny model: a few steps each, compared weight for weight."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.utils import DistributedType

from tests.training.grpo.runs import PLAIN, assert_close, metrics, recipe, train, weights
from videoreasoner.errors import RewardError, TrainingError, VideoError
from videoreasoner.models.checkpoint import load_checkpoint, save_checkpoint
from videoreasoner.models.tree_batch import unwrapped
from videoreasoner.rows import Row, read_rows, write_rows
from videoreasoner.training.data.dataset import ExampleBatch
from videoreasoner.training.grpo import setup as grpo_start
from videoreasoner.training.grpo.recipe import GrpoRecipe
from videoreasoner.training.grpo.setup import prepare_grpo, train_grpo


@pytest.mark.parametrize(
    "changes",
    [
        {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2},
        {"shared_prompt": False},
        {"gradient_checkpointing": True, "dataloader_num_workers": 1},
        {"rollout_batch_size": 1},
    ],
    ids=["two batches of one", "repeated rows", "checkpointing and a worker", "rollouts apart"],
)
def test_however_a_step_is_computed_it_is_the_same(changes, videos, plain, start, tmp_path) -> None:
    mine = train(videos, tmp_path / "out", **PLAIN, **changes)
    assert_close(mine, weights(plain), start)
    for one, other in zip(metrics(tmp_path / "out"), metrics(plain), strict=True):
        for name in ("loss", "reward", "kl", "zero_variance_groups", "completion_length", "parse_rate/event"):
            assert one[name] == pytest.approx(other[name], rel=1e-3, abs=1e-5), name


def clips_encoded(recipe: GrpoRecipe) -> tuple[int, int]:
    """In one step, of how many clips the policy's and the reference's vision towers were asked for features."""
    trainer = prepare_grpo(recipe)
    counts = []
    for model in (unwrapped(trainer.model), trainer.reference):
        model.model.visual.register_forward_hook(
            lambda _, inputs, options, __, seen=(seen := []): seen.append(len(options["grid_thw"])), with_kwargs=True
        )
        counts.append(seen)
    trainer.train()
    return sum(counts[0]), sum(counts[1])


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, (2, 2)),
        ({"freeze_vision": True}, (2, 0)),
        ({"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2}, (4, 2)),
        ({"num_iterations": 2, "max_steps": 2, "save_steps": 2}, (6, 2)),
        # One clip for each completion in the update and in the reference.
        ({"shared_prompt": False}, (2 + 16, 16)),
    ],
    ids=["one batch", "frozen", "accumulated", "two updates", "repeated rows"],
)
def test_a_clip_is_encoded_once_where_weights_and_memory_allow(changes, expected, videos, tmp_path) -> None:
    everything = {"max_steps": 1, "save_steps": 1, "rewards": {f"{videos / 'odd.py'}:different": 1.0}, **changes}
    assert clips_encoded(recipe(videos, tmp_path / "out", **everything)) == expected


def test_every_mean_is_one_over_the_whole_step(videos, start, tmp_path) -> None:
    norms = []
    for loss_type in ("grpo", "dapo", "dr_grpo"):
        changes = {**PLAIN, "loss_type": loss_type, "max_steps": 1, "save_steps": 1, "max_completion_length": 20}
        cut = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2}
        whole = train(videos, tmp_path / loss_type, **changes)
        halves = train(videos, tmp_path / f"{loss_type}-cut", **changes, **cut)
        apart = max(float((whole[name] - halves[name]).abs().max()) for name in whole)
        assert apart < 1e-5 < max(float((whole[name] - start[name]).abs().max()) for name in whole)
        norms.append(metrics(tmp_path / loss_type)[0]["grad_norm"])
    assert len({round(norm, 3) for norm in norms}) == 3


def test_masked_truncated_completions_teach_nothing(videos, start, tmp_path) -> None:
    changes = {**PLAIN, "max_completion_length": 2, "tasks": ["event"], "max_steps": 1, "save_steps": 1}
    masked = train(videos, tmp_path / "masked", **changes, temperature=5.0, mask_truncated_completions=True)
    learned = train(videos, tmp_path / "learned", **changes, temperature=5.0)
    assert metrics(tmp_path / "masked")[0]["completion_truncated"] == 1
    assert metrics(tmp_path / "masked")[0]["zero_variance_groups"] < 1
    assert all(torch.equal(masked[name], start[name]) for name in start)
    assert not all(torch.equal(learned[name], start[name]) for name in start)


def train_in_two_processes(wanted: GrpoRecipe, work: Path) -> None:
    (work / "recipe.yaml").write_text(yaml.safe_dump(wanted.model_dump(mode="json")))
    program = work / "run.py"
    program.write_text(
        "import sys, torch\n"
        "from pathlib import Path\n"
        "from videoreasoner.training.grpo.recipe import GrpoRecipe\n"
        "from videoreasoner.training.grpo.setup import train_grpo\n"
        "from videoreasoner.training.recipe import load_recipe\n"
        "torch.set_num_threads(1)\n"
        "train_grpo(load_recipe(Path(sys.argv[1]), GrpoRecipe))\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=0"]
    command += ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", str(program), str(work / "recipe.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]


def test_two_processes_are_one(videos, plain, start, tmp_path) -> None:
    train_in_two_processes(recipe(videos, tmp_path / "out", **PLAIN, per_device_train_batch_size=1), tmp_path)
    assert_close(weights(tmp_path / "out"), weights(plain), start)
    for one, other in zip(metrics(tmp_path / "out"), metrics(plain), strict=True):
        for name in ("loss", "reward", "kl", "rows", "completion_length"):
            assert one[name] == pytest.approx(other[name], rel=1e-3, abs=1e-5), name


def test_a_process_without_anything_to_learn_takes_part_at_no_weight(videos, tmp_path, monkeypatch) -> None:
    """Other processes wait for its gradients: there is one for every parameter, and all are zero."""
    trainer = prepare_grpo(recipe(videos, tmp_path / "out"))
    monkeypatch.setattr(trainer.accelerator.state, "distributed_type", DistributedType.MULTI_CPU)
    experience = trainer.dummy_experience()
    loss = trainer.loss(experience, trainer.model.train())
    loss.backward()
    assert loss == 0
    for name, parameter in trainer.model.named_parameters():
        assert parameter.grad is not None, name
        assert not parameter.grad.any(), name


def test_where_no_process_learns_anything_weights_stay_as_they_are(videos, start, tmp_path) -> None:
    """One of two processes learns in the first step, which fills the optimizer's moments, and none in the second."""
    reward = f"{videos / 'odd.py'}:first_process_first_query"
    changes = {"per_device_train_batch_size": 1, "save_steps": 1, "weight_decay": 0.1, "skip_flat_groups": True}
    train_in_two_processes(recipe(videos, tmp_path / "out", rewards={reward: 1.0}, **changes), tmp_path)
    first, second = (weights(tmp_path / "out" / f"checkpoint-{step}") for step in (1, 2))
    assert not all(torch.equal(first[name], start[name]) for name in start)
    for name, value in first.items():
        assert torch.equal(second[name], value), name
    shares = [line["zero_variance_groups"] for line in metrics(tmp_path / "out")]
    assert shares == [pytest.approx(0.5, abs=0.3), 1.0]
    # The process that has nothing to learn takes part with a dummy example, which is in no metric.
    [line, _] = metrics(tmp_path / "out")
    assert line["kl"] == pytest.approx(0, abs=1e-4)
    assert line["rollout_mismatch"] < 1e-4


@pytest.mark.parametrize("iterations", [1, 2])
def test_resumed_is_uninterrupted_bit_for_bit(iterations, videos, tmp_path) -> None:
    """What a kill leaves behind is the last checkpoint, and lines of the steps after it."""
    out = tmp_path / "out"
    wanted = recipe(videos, out, max_steps=4, num_iterations=iterations)
    whole = weights(train_grpo(wanted))
    lines = metrics(out)
    rollouts = (out / "rollouts.jsonl").read_text()
    shutil.rmtree(out / "checkpoint-4")
    for name in ("model.safetensors", "config.json"):
        (out / name).unlink()
    trainer = prepare_grpo(wanted)
    assert trainer.run.resume.checkpoint == out / "checkpoint-2"
    again = weights(train_grpo(wanted))
    assert whole.keys() == again.keys()
    for name, value in whole.items():
        assert torch.equal(value, again[name]), name
    timeless = [
        [{k: v for k, v in line.items() if "time" not in k and "mem" not in k} for line in ls]
        for ls in (lines, metrics(out))
    ]
    assert timeless[0] == timeless[1]
    assert (out / "rollouts.jsonl").read_text() == rollouts
    steps = [json.loads(line)["step"] for line in rollouts.splitlines()]
    assert sorted(set(steps)) == list(range(1, 5, iterations))


def test_several_updates_on_a_batch_are_no_further_epochs_and_a_finished_run_stays(videos, tmp_path) -> None:
    wanted = recipe(videos, tmp_path / "out", num_iterations=2, max_steps=4)
    train_grpo(wanted)
    assert [line["epoch"] for line in metrics(tmp_path / "out")] == [0.125, 0.25, 0.375, 0.5]
    lines = (tmp_path / "out" / "metrics.jsonl").read_text()
    train_grpo(wanted)
    assert (tmp_path / "out" / "metrics.jsonl").read_text() == lines


def test_the_table_is_shown_at_logged_steps(videos, tmp_path, capsys) -> None:
    changes = {"num_iterations": 2, "logging_steps": 2, "max_steps": 4, "log_completions": True}
    train(videos, tmp_path / "out", **changes)
    assert capsys.readouterr().err.count("Advantage") == 2


def test_held_out_samples_have_names_of_their_own(videos, tmp_path) -> None:
    train(
        videos,
        tmp_path / "out",
        max_steps=1,
        save_steps=1,
        eval_data=[{"path": str(videos / "plain.jsonl")}],
        eval_rows=1,
    )
    before, line = metrics(tmp_path / "out")
    assert "held_out/parse_rate/event" in before
    assert {"parse_rate/event", "held_out/parse_rate/event"} <= line.keys()


def test_the_first_update_has_a_ratio_of_one_and_later_ones_do_not(videos, tmp_path) -> None:
    train(videos, tmp_path / "out", num_iterations=3, max_steps=3, save_steps=3, epsilon=1e-4)
    first, second, third = metrics(tmp_path / "out")
    assert first["rollout_mismatch"] < 1e-4
    assert first["clip_ratio"] == 0
    assert second["clip_ratio"] > 0
    assert "rollout_mismatch" not in second
    assert "reward" not in third
    assert "time/rollout" not in third


@pytest.mark.parametrize("changes", [{"skip_flat_groups": True}, {"beta": 0.0}], ids=str)
def test_equal_rewards_cost_no_update(changes, videos, start, tmp_path) -> None:
    rewards = {f"{videos / 'odd.py'}:same": 1.0}
    after = train(videos, tmp_path / "out", rewards=rewards, weight_decay=0.1, **changes)
    for name, value in after.items():
        assert torch.equal(value, start[name]), name
    for line in metrics(tmp_path / "out"):
        assert line["zero_variance_groups"] == 1
        assert line["loss"] == 0
        assert "time/reference" not in line
        assert "time/forward" not in line


def test_equal_rewards_still_learn_from_their_divergence(videos, tmp_path) -> None:
    """In the published form. The first step moves away from the reference, and no reward differs in the second."""
    rewards = {f"{videos / 'odd.py'}:different_at_first": 1.0}
    train(videos, tmp_path / "out", **PLAIN, rewards=rewards, save_steps=1)
    first, second = metrics(tmp_path / "out")
    assert (first["zero_variance_groups"], second["zero_variance_groups"]) == (0, 1)
    assert (first["kl_share"], second["kl_share"]) == (1, 1)
    assert second["kl"] > 0
    assert second["grad_norm"] > 0
    before, after = (weights(tmp_path / "out" / f"checkpoint-{step}") for step in (1, 2))
    assert not all(torch.equal(before[name], after[name]) for name in before)


def test_rewards_are_computed_without_gradients(videos, tmp_path) -> None:
    """A reward may be a model: its activations must not be kept."""
    changes = {"rewards": {f"{videos / 'odd.py'}:without_gradients": 1.0}, "max_steps": 1, "save_steps": 1}
    train(videos, tmp_path / "out", **changes)
    [line] = metrics(tmp_path / "out")
    assert line["reward"] == 1.0


def test_a_tasks_equal_rewards_leave_the_other_task_alone(videos, tmp_path) -> None:
    train(
        videos,
        tmp_path / "out",
        rewards={f"{videos / 'odd.py'}:same_event_odd_answer": 1.0},
        max_steps=1,
        save_steps=1,
        temperature=3.0,
    )
    [line] = metrics(tmp_path / "out")
    assert line["zero_variance_groups/event"] == 1
    assert line["zero_variance_groups/answer"] < 1
    kept = [json.loads(text) for text in (tmp_path / "out" / "rollouts.jsonl").read_text().splitlines()]
    assert all(record["advantage"] == 0 for record in kept if record["task"] == "event")


def test_a_frozen_vision_tower_stays_and_learns_the_same_elsewhere(videos, start, tmp_path) -> None:
    frozen = train(videos, tmp_path / "out", **PLAIN, freeze_vision=True)
    repeated = train(videos, tmp_path / "again", **PLAIN, freeze_vision=True, shared_prompt=False)
    for name, value in frozen.items():
        assert torch.equal(value, start[name]) == ("visual" in name), name
    assert_close(frozen, repeated, start)


def test_adapters_off_are_the_reference(videos, start, tmp_path) -> None:
    lora = {"r": 4, "lora_alpha": 8, "lora_dropout": 0.0}
    after = train(videos, tmp_path / "out", lora=lora, max_steps=3, save_steps=3)
    divergence = [line["kl"] for line in metrics(tmp_path / "out")]
    # Before the first update, policy and reference are one model.
    assert abs(divergence[0]) < 1e-7
    assert divergence[2] > 1e-6
    assert any(not torch.equal(after[name], start[name]) for name in after)


def test_a_reference_of_its_own_is_used(videos, tmp_path) -> None:
    train(videos, tmp_path / "none", beta=0.0, max_steps=1, save_steps=1)
    train(videos, tmp_path / "self", max_steps=1, save_steps=1)
    other = load_checkpoint("tiny", "cpu")
    with torch.no_grad():
        other.model.lm_head.weight *= 1.1
    save_checkpoint(tmp_path / "other", other.model, other.encoder.tokenizer, other.settings, other.patches)
    train(videos, tmp_path / "given", ref_model=str(tmp_path / "other"), max_steps=1, save_steps=1)
    [none], [self_], [given] = (metrics(tmp_path / name) for name in ("none", "self", "given"))
    assert "kl" not in none
    assert "time/reference" not in none
    assert abs(self_["kl"]) < 1e-6 < given["kl"]
    assert none["reward"] == self_["reward"] == given["reward"]


def test_thinking_is_reinforced_by_the_answer_alone(videos, start, tmp_path) -> None:
    """Rows need no reasoning for it."""
    rows = [Row.model_validate(r.model_dump(exclude={"reasoning", "event"})) for r in read_rows(videos / "plain.jsonl")]
    path = tmp_path / "rows.jsonl"
    write_rows(path, rows)
    (tmp_path / "brevity.py").write_text(
        "def brevity(completions, task, **_):\n"
        "    assert set(task) == {'think'}\n"
        "    return [1 / (1 + len(text)) for text in completions]\n"
    )
    rewards = {"accuracy": 1.0, f"{tmp_path / 'brevity.py'}:brevity": 1.0}
    data = [{"path": str(path), "video_root": str(videos)}]
    after = train(videos, tmp_path / "out", data=data, tasks=["think"], rewards=rewards, eval_data=data, eval_rows=1,
                  settings={"frame_budget": 8, "max_thought_tokens": 6})  # fmt: skip
    assert any(not torch.equal(after[name], start[name]) for name in after)
    lines = {line["step"]: line for line in metrics(tmp_path / "out")}
    for step in (1, 2):
        assert lines[step]["reward/brevity"] > 0
        assert 0 <= lines[step]["reward/accuracy"] <= 1
        assert lines[step]["parse_rate/think"] >= lines[step]["reward/accuracy"]
    assert "held_out/accuracy/think" in lines[2]
    kept = [json.loads(line) for line in (tmp_path / "out" / "rollouts.jsonl").read_text().splitlines()]
    assert {record["task"] for record in kept} == {"think"}


def test_rewards_rise(videos, tmp_path) -> None:
    """A reward that half of the completions get from the start is got by nearly all after a few steps."""
    rewards = {f"{videos / 'odd.py'}:second_digit_is_high": 1.0}
    changes = {"tasks": ["event"], "max_steps": 16, "save_steps": 16, "num_generations": 8, "beta": 0.0}
    train(videos, tmp_path / "out", rewards=rewards, learning_rate=5e-4, per_device_train_batch_size=4, **changes)
    lines = [line["reward"] for line in metrics(tmp_path / "out")]
    assert sum(lines[-4:]) / 4 > sum(lines[:4]) / 4 + 0.2


def test_what_a_run_leaves_behind(videos, plain) -> None:
    [first, second] = metrics(plain)
    assert [first["step"], second["step"]] == [1, 2]
    wanted = {
        "loss",
        "reward",
        "reward/odd",
        "kl",
        "kl_share",
        "clip_ratio",
        "rollout_mismatch",
        "completion_length",
        "parse_rate",
    }
    wanted |= {"parse_rate/event", "parse_rate/answer", "zero_variance_groups", "zero_variance_groups/event"}
    wanted |= {"rows_skipped", "time/decode", "time/rollout", "time/rewards", "time/reference", "time/update"}
    assert wanted | {"memory/peak_gb"} <= second.keys()
    assert first["reward"] == pytest.approx(first["reward/odd"])
    kept = [json.loads(line) for line in (plain / "rollouts.jsonl").read_text().splitlines()]
    assert [record["step"] for record in kept] == [1] * 4 + [2] * 4
    for step in (kept[:4], kept[4:]):
        values = [record["reward"] for record in step]
        assert values == sorted(values, reverse=True)
        assert values[0] > values[-1]
    assert {record["task"] for record in kept} <= {"event", "answer"}
    loaded = load_checkpoint(plain, "cpu")
    assert loaded.settings.frame_budget == 8
    assert loaded.settings.training["recipe"]["num_generations"] == 4
    card = (plain / "README.md").read_text()
    assert "multi-task GRPO" in card


def test_a_reward_that_fails_stops_the_run_with_its_name(videos, tmp_path) -> None:
    (tmp_path / "bad.py").write_text("def bad(completions, **_):\n    return [float('nan') for _ in completions]\n")
    with pytest.raises(RewardError, match=r"reward bad, row synthetic-.*: returned nan"):
        train(videos, tmp_path / "out", rewards={f"{tmp_path / 'bad.py'}:bad": 1.0})


def test_key_elements_are_reinforced_by_retrieval(videos, tmp_path) -> None:
    """Rows need no key elements for it: the event is what judges them."""
    rows = [Row.model_validate({**r.model_dump(), "key_elements": None}) for r in read_rows(videos / "plain.jsonl")]
    write_rows(tmp_path / "rows.jsonl", rows)
    rewards = {"key_element_retrieval": 1.0, "event_iou": 1.0}
    train(
        videos,
        tmp_path / "out",
        data=[{"path": str(tmp_path / "rows.jsonl")}],
        tasks=["event", "key_elements"],
        rewards=rewards,
        max_steps=1,
        save_steps=1,
    )
    [line] = metrics(tmp_path / "out")
    assert 0 < line["reward/key_element_retrieval"] <= 1
    assert line["parse_rate/key_elements"] > 0


def test_a_video_that_a_reward_cannot_read_is_set_aside(videos, tmp_path, monkeypatch) -> None:
    bad, *_ = rows = list(read_rows(videos / "plain.jsonl"))
    whole = grpo_start.GuardedVideoFile

    def opened(video: str, time_limit_s: float):
        if Path(video).name == Path(bad.video).name:
            raise VideoError(f"{video}: cannot be decoded at 3 s")
        return whole(video, time_limit_s)

    monkeypatch.setattr(grpo_start, "GuardedVideoFile", opened)
    changes = {"tasks": ["key_elements"], "rewards": {"key_element_retrieval": 1.0}, "max_skipped_fraction": 0.2}
    changes |= {"max_steps": 1, "save_steps": 1, "per_device_train_batch_size": 8, "max_completion_length": 24}
    train(videos, tmp_path / "out", **changes)
    [line] = metrics(tmp_path / "out")
    assert (line["rows"], line["rows_skipped"]) == (len(rows) - 1, 1)
    [skipped] = map(json.loads, (tmp_path / "out" / "skipped.jsonl").read_text().splitlines())
    assert skipped["row"] == bad.id
    assert "reward key_element_retrieval: " in skipped["reason"]
    # One over the rows that are left, and not over all.
    trainer = prepare_grpo(recipe(videos, tmp_path / "again", **changes))
    totals: list[int] = []
    monkeypatch.setattr(trainer, "experience", lambda scored, completions, *_: totals.append(completions))
    trainer.step_losses([ExampleBatch.collate([trainer.run.dataset[i] for i in range(8)])])
    assert totals == [4 * (len(rows) - 1)]
    with pytest.raises(TrainingError, match="max_skipped_fraction"):
        train(videos, tmp_path / "strict", **{**changes, "max_skipped_fraction": 0.1})
