"""A run that dies and is started again by the same command gives the weights of one that did not, bit for bit."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from tests.cli.calling import in_a_process, one_line
from tests.training import killed
from tests.training.toy import make_data, make_model, recipe_content, write_recipe
from videoreasoner.errors import Stopped, TrainingError
from videoreasoner.training.cold_start import prepare_cold_start, train_cold_start
from videoreasoner.training.data.dataset import ExampleBatch
from videoreasoner.training.data.sources import Skipped
from videoreasoner.training.recipe import ColdStartRecipe, parse_recipe
from videoreasoner.training.runtime.folder import RunFolder
from videoreasoner.training.runtime.setup import train as train_run

# A server that has torch loaded, from which each run is a fresh process.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.training.killed"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("resume")
    make_model(made / "model", event_tokens=False)
    make_data(made / "data")
    return made


def content_for(folder: Path, out: Path, kind: str = "adapters", **changes: Any) -> dict[str, Any]:
    """Adapters have dropout, so that random state matters; whole weights are saved and loaded in another way."""
    lora = {"r": 4, "lora_alpha": 8, "lora_dropout": 0.2} if kind == "adapters" else None
    rows = folder / "data" / "plain.jsonl"
    return recipe_content(
        folder, rows, output_dir=str(out), gradient_accumulation_steps=2, lora=lora, eval_data=[{"path": str(rows)}],
        eval_rows=1, eval_steps=3, **changes,
    )  # fmt: skip


def start(content: dict[str, Any], place: str | None = None, call: int = 0) -> Any:
    process = PROCESSES.Process(target=killed.run, args=(content, place, call))
    process.start()
    return process


def finished(content: dict[str, Any]) -> tuple[bytes, list[dict[str, Any]]]:
    """Weights of the final model, and the metrics but for times."""
    out = Path(content["output_dir"])
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    kept = [{k: v for k, v in line.items() if not k.startswith(("time/", "memory/"))} for line in lines]
    return (out / "model.safetensors").read_bytes(), kept


@pytest.fixture(scope="module")
def uninterrupted(folder: Path) -> dict[str, Any]:
    found = {}
    for kind in ("adapters", "whole"):
        content = content_for(folder, folder / kind, kind)
        process = start(content)
        process.join()
        assert process.exitcode == 0
        found[kind] = finished(content)
        assert [line["step"] for line in found[kind][1]] == list(range(7))
    return found


@pytest.mark.parametrize(
    ("kind", "place", "call"),
    [
        ("whole", "step", 4),
        ("whole", "rename", 2),
        ("adapters", "replace", 12),
        pytest.param("adapters", "step", 5, marks=pytest.mark.slow),
        pytest.param("whole", "torch.save", 5, marks=pytest.mark.slow),
        pytest.param("adapters", "fsync", 3, marks=pytest.mark.slow),
    ],
)
def test_killed_at_any_place_and_started_again(
    folder: Path, tmp_path: Path, uninterrupted: Any, kind: str, place: str, call: int
) -> None:
    content = content_for(folder, tmp_path / "out", kind, dataloader_num_workers=1)
    process = start(content, place, call)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    again = start(content)
    again.join()
    assert again.exitcode == 0
    assert finished(content) == uninterrupted[kind]
    assert not (tmp_path / "out" / ".saving").exists()


@pytest.mark.parametrize("is_killed", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_second_start_in_the_folder_of_a_run_is_refused(
    folder: Path, tmp_path: Path, uninterrupted: Any, is_killed: bool
) -> None:
    out = tmp_path / "out"
    content = content_for(folder, out, "whole", dataloader_num_workers=1)
    first = start(content)
    while not (out / "metrics.jsonl").exists():
        time.sleep(0.01)
    os.kill(first.pid, signal.SIGSTOP)
    assert first.exitcode is None
    recipe = write_recipe(tmp_path / "recipe.yaml", content)
    second = in_a_process("train", "cold-start", recipe)
    one_line(second, f"output_dir {out}", f"process {first.pid} on")
    # Neither may another recipe have the folder, nor may it be emptied.
    for changes, overwrite in (({"learning_rate": 1.0}, False), ({}, True)):
        with pytest.raises(TrainingError):
            train({**content, **changes}, overwrite)
    if is_killed:
        # Its worker outlives it for some seconds.
        first.kill()
        first.join()
        first = start(content)
    else:
        os.kill(first.pid, signal.SIGCONT)
    first.join()
    assert first.exitcode == 0
    assert finished(content) == uninterrupted["whole"]
    assert not (out / ".lock").exists()


def test_a_start_that_read_the_folder_before_another_run_went_on_is_refused(folder: Path, tmp_path: Path) -> None:
    content = recipe_content(folder, folder / "data" / "plain.jsonl", output_dir=str(tmp_path / "out"))
    early = prepare_cold_start(parse_recipe(content, ColdStartRecipe))
    train(content)
    ended = finished(content)
    with pytest.raises(TrainingError, match="start the same command again"):
        train_run(early)
    assert finished(content) == ended


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["adapters", "whole"])
def test_killed_again_and_again_at_random(folder: Path, tmp_path: Path, uninterrupted: Any, kind: str) -> None:
    content, rng = content_for(folder, tmp_path / "out", kind), random.Random(0)
    for _ in range(12):
        process = start(content)
        time.sleep(rng.uniform(0.5, 8.0))
        process.kill()
        process.join()
    last = start(content)
    last.join()
    assert last.exitcode == 0
    assert finished(content) == uninterrupted[kind]


def train(content: dict[str, Any], overwrite: bool = False) -> Path:
    return train_cold_start(parse_recipe(content, ColdStartRecipe), overwrite)


def test_a_full_disk_leaves_the_checkpoint_before(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = recipe_content(folder, folder / "data" / "plain.jsonl", output_dir=str(tmp_path / "out"))
    save, saved = torch.save, []

    def full(state: Any, path: Any, *arguments: Any, **named: Any) -> None:
        saved.append(path)
        if "checkpoint-4" in str(path):
            raise OSError(28, "No space left on device")
        save(state, path, *arguments, **named)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(TrainingError, match=r"step 4: the checkpoint cannot be saved .*checkpoint-2 is complete"):
        train(content)
    folder_ = RunFolder(tmp_path / "out")
    assert [path.name for path in folder_.checkpoints()] == ["checkpoint-2"]
    monkeypatch.undo()
    train(content)
    straight = recipe_content(folder, folder / "data" / "plain.jsonl", output_dir=str(tmp_path / "straight"))
    train(straight)
    assert finished(content) == finished(straight)


def with_videos(folder: Path, made: Path) -> tuple[Path, list[dict[str, Any]]]:
    """The rows of `folder`, with videos of their own that can come and go."""
    shutil.copytree(folder / "data", made)
    path = made / "plain.jsonl"
    return path, [json.loads(line) for line in path.read_text().splitlines()]


def rows_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "skipped.jsonl").read_text().splitlines()]


def test_videos_that_come_and_go_leave_the_order_of_the_other_rows(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, rows = with_videos(folder, tmp_path / "videos")
    drawn: list[list[str]] = []
    whole = ExampleBatch.collate

    def seen(items: Any) -> ExampleBatch:
        drawn.append([item.row if isinstance(item, Skipped) else item.row.id for item in items])
        return whole(items)

    monkeypatch.setattr(ExampleBatch, "collate", seen)
    content = recipe_content(folder, path, output_dir=str(tmp_path / "out"), max_skipped_fraction=0.5)
    train({**content, "output_dir": str(tmp_path / "straight")})
    straight, drawn[:] = list(drawn), []
    video = path.parent / rows[0]["video"]
    video.rename(video.with_suffix(".away"))
    stopped(content, 3)
    first, drawn[:] = list(drawn), []
    assert [item["row"] for item in rows_of(tmp_path / "out")] == [rows[0]["id"]]
    video.with_suffix(".away").rename(video)
    train(content)
    # Up to the checkpoint of step 2, and from there on.
    assert first[:2] + drawn == straight
    assert rows_of(tmp_path / "out") == []
    [*_, last] = finished(content)[1]
    assert last["rows_skipped"] == 0


def test_a_video_that_was_repaired_is_no_longer_listed(folder: Path, tmp_path: Path) -> None:
    path, rows = with_videos(folder, tmp_path / "videos")
    video = path.parent / rows[0]["video"]
    good = video.read_bytes()
    video.write_bytes(b"no video")
    content = recipe_content(
        folder, path, output_dir=str(tmp_path / "out"), max_skipped_fraction=0.5, max_steps=9, save_steps=3
    )
    stopped(content, 4)
    [listed] = rows_of(tmp_path / "out")
    assert (listed["row"], listed["step"] in (1, 2, 3)) == (rows[0]["id"], True)
    video.write_bytes(good)
    train(content)
    assert rows_of(tmp_path / "out") == []


def stopped(content: dict[str, Any], step: int) -> None:
    """Train up to a step, and stop there as a run does that is killed."""
    trainer = prepare_cold_start(parse_recipe(content, ColdStartRecipe))

    class Stop(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == step:
                raise KeyboardInterrupt

    trainer.add_callback(Stop())
    with pytest.raises(Stopped):
        train_run(trainer)


def test_lines_of_the_metrics_are_whole_whenever_a_run_stops(folder: Path, tmp_path: Path) -> None:
    changes = {"logging_steps": 3, "save_steps": 2, "max_steps": 8}
    content = recipe_content(folder, folder / "data" / "plain.jsonl", output_dir=str(tmp_path / "out"), **changes)
    stopped(content, 5)
    train(content)
    straight = {**content, "output_dir": str(tmp_path / "straight")}
    train(straight)
    assert finished(content) == finished(straight)
    assert [line["step"] for line in finished(content)[1]] == [2, 3, 4, 6, 8]
    assert sum(line["rows"] for line in finished(content)[1]) == 2 * 8


def test_the_folder_of_another_run_is_refused(folder: Path, tmp_path: Path) -> None:
    rows = folder / "data" / "plain.jsonl"
    content = recipe_content(folder, rows, output_dir=str(tmp_path / "out"), max_steps=2)
    train(content)
    with pytest.raises(TrainingError, match=r"differs in recipe\.learning_rate.*--overwrite"):
        train({**content, "learning_rate": 1e-4})
    with pytest.raises(TrainingError, match="differs in rows_a_step"):
        train({**content, "gradient_accumulation_steps": 2})
    # What decides only how fast and where to may change.
    train({**content, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 1})
    train({**content, "save_steps": 1, "logging_steps": 2})
    # Folders of earlier versions name some of that.
    run = tmp_path / "out" / "run.json"
    identity = json.loads(run.read_text())
    identity["recipe"]["save_steps"] = 77
    run.write_text(json.dumps(identity))
    train(content)
    copy = tmp_path / "rows.jsonl"
    copy.write_text(rows.read_text())
    other = {**content, "data": [{"path": str(copy)}], "output_dir": str(tmp_path / "other")}
    train(other)
    copy.write_text("\n".join(rows.read_text().splitlines()[:-1]) + "\n")
    with pytest.raises(TrainingError, match="differs in data"):
        train(other)
    train(other, overwrite=True)
    assert len((tmp_path / "other" / "metrics.jsonl").read_text().splitlines()) == 2


def test_a_model_folder_is_never_taken_for_a_run(folder: Path) -> None:
    content = recipe_content(folder, folder / "data" / "plain.jsonl", output_dir=str(folder / "model"))
    with pytest.raises(TrainingError, match=r"holds a model but no run\.json"):
        train(content)


def test_a_given_checkpoint_comes_after_the_runs_own(folder: Path, tmp_path: Path) -> None:
    rows = folder / "data" / "plain.jsonl"
    first = recipe_content(folder, rows, output_dir=str(tmp_path / "first"))
    train(first)
    given = str(tmp_path / "first" / "checkpoint-4")
    second = {**first, "output_dir": str(tmp_path / "second"), "resume_from_checkpoint": given}
    train(second)
    assert (tmp_path / "second" / "model.safetensors").read_bytes() == finished(first)[0]
    steps = [json.loads(line)["step"] for line in (tmp_path / "second" / "metrics.jsonl").read_text().splitlines()]
    assert steps == [5, 6]
    with pytest.raises(TrainingError, match=r"holds no trainer_state\.json"):
        train({**first, "output_dir": str(tmp_path / "third"), "resume_from_checkpoint": str(tmp_path)})


def test_after_a_given_checkpoint_the_rates_are_those_of_the_recipe(folder: Path, tmp_path: Path) -> None:
    rows = folder / "data" / "plain.jsonl"
    first = recipe_content(folder, rows, output_dir=str(tmp_path / "first"), lr_scheduler_type="linear")
    train({**first, "max_steps": 2})
    given = str(tmp_path / "first" / "checkpoint-2")
    decided = {"learning_rate": 1e-5, "weight_decay": 0.3, "adam_beta1": 0.5}
    train({**first, **decided, "output_dir": str(tmp_path / "second"), "resume_from_checkpoint": given})
    assert rates(tmp_path / "second") == pytest.approx({3: 4e-5 / 6, 4: 3e-5 / 6, 5: 2e-5 / 6, 6: 1e-5 / 6})
    groups = torch.load(tmp_path / "second" / "checkpoint-6" / "optimizer.pt")["param_groups"]
    assert {(group["weight_decay"], group["betas"]) for group in groups} == {(0.3, (0.5, 0.999)), (0.0, (0.5, 0.999))}


def rates(out: Path) -> dict[int, float]:
    return {
        line["step"]: line["learning_rate"]
        for line in map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
        if "learning_rate" in line
    }


def test_a_finished_run_is_extended(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def content(name: str, steps: int, **changes: Any) -> dict[str, Any]:
        rows = folder / "data" / "plain.jsonl"
        return recipe_content(folder, rows, output_dir=str(tmp_path / name), max_steps=steps, **changes)

    # With a constant rate, the extended run is the long run, bit for bit.
    constant = {"lr_scheduler_type": "constant"}
    train(content("out", 3, **constant))
    capsys.readouterr()
    train(content("out", 3, **constant))
    assert "this run is finished: step 3 of 3; raise max_steps" in capsys.readouterr().err
    train(content("out", 6, **constant))
    assert "training continues at step 3: 6 rows, 6 steps" in capsys.readouterr().err
    train(content("long", 6, **constant))
    assert finished(content("out", 6)) == finished(content("long", 6))
    with pytest.raises(TrainingError, match=r"differs in recipe\.max_steps, steps; .*checkpoint-6 goes on"):
        train(content("out", 4, **constant))
    # With another schedule it follows the one of the new length from there on.
    train(content("cosine", 3))
    train(content("cosine", 6))
    train(content("cosine-long", 6))
    extended, long = rates(tmp_path / "cosine"), rates(tmp_path / "cosine-long")
    assert extended[2] != long[2]
    assert [extended[step] for step in (4, 5, 6)] == [long[step] for step in (4, 5, 6)]
    # Epochs count as well.
    train(content("epochs", -1, num_train_epochs=1.0))
    train(content("epochs", -1, num_train_epochs=2.0))
    assert [line["step"] for line in finished(content("epochs", -1))[1]][-1] == 6
