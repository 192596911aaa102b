"""The output folder: which run it belongs to, what is complete in it, and what a failing disk looks like."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError

from tests.training.toy import make_data, make_model, recipe_content
from videoreasoner.errors import TrainingError
from videoreasoner.training.cold_start import train_cold_start
from videoreasoner.training.data.sources import Skipped
from videoreasoner.training.recipe import ColdStartRecipe, parse_recipe
from videoreasoner.training.runtime import folder as folder_module
from videoreasoner.training.runtime import trainer as trainer_module
from videoreasoner.training.runtime.folder import ResumePoint, RunFolder
from videoreasoner.training.runtime.identity import run_identity

TORCH_WRITE = "[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"


def recipe(folder: Path, **changes: Any) -> ColdStartRecipe:
    return parse_recipe(recipe_content(folder, folder / "data" / "plain.jsonl", **changes), ColdStartRecipe)


def staged(run: RunFolder, name: str) -> Path:
    path = run.staging / name
    path.mkdir(parents=True)
    (path / "config.json").write_text(name)
    return path


def test_another_run_is_refused_by_the_fields_that_differ(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    identity = run_identity(recipe(tmp_path), {"rows": "abc"}, 2, 9)
    run.check(identity)
    run.begin(identity, False, ResumePoint(), [])
    run.check(identity)
    # Where things go and how fast may change; what is learned may not.
    run.check(run_identity(recipe(tmp_path, save_steps=3, output_dir="elsewhere"), {"rows": "abc"}, 2, 9))
    for other, names in [
        (run_identity(recipe(tmp_path, learning_rate=1.0), {"rows": "abc"}, 2, 9), "recipe.learning_rate"),
        (run_identity(recipe(tmp_path), {"rows": "abd"}, 4, 9), "data.rows, rows_a_step"),
    ]:
        with pytest.raises(TrainingError, match=f"differs in {names};"):
            run.check(other)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(TrainingError, match=r"run\.json: not JSON"):
        run.check(identity)
    (tmp_path / "run.json").write_text("[]")
    with pytest.raises(TrainingError, match=r"run\.json: not the record of a run"):
        run.check(identity)
    (tmp_path / "run.json").unlink()
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(TrainingError, match=r"holds a model but no run\.json"):
        run.check(identity)


def test_overwriting_removes_what_a_run_writes_and_nothing_else(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.begin({}, False, ResumePoint(), [])
    run.publish(staged(run, "checkpoint-2"), keep=1)
    run.append("metrics.jsonl", {"step": 1})
    (tmp_path / "notes.txt").write_text("mine")
    assert run.clears(tmp_path / "checkpoint-2")
    assert not run.clears(tmp_path / "notes.txt")
    run.begin({"kind": "other"}, True, ResumePoint(), [])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt", "run.json", "skipped.jsonl"]
    assert json.loads((tmp_path / "run.json").read_text()) == {"kind": "other"}


def test_the_oldest_checkpoints_are_removed(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert run.last_checkpoint() is None
    for step in (2, 10, 4):
        run.publish(staged(run, f"checkpoint-{step}"), keep=2)
    assert [path.name for path in run.checkpoints()] == ["checkpoint-4", "checkpoint-10"]
    assert run.last_checkpoint() == tmp_path / "checkpoint-10"
    assert not run.staging.exists()


def test_a_model_has_its_configuration_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunFolder(tmp_path)
    (tmp_path / "config.json").write_text("old")
    run.staging.mkdir()
    for name in ("a.json", "config.json", "model.safetensors"):
        (run.staging / name).write_text("new")
    replace = os.replace

    def dies_at_the_weights(source: Path, target: Path) -> None:
        if target.name == "model.safetensors":
            raise OSError(errno.EIO, "broken")
        replace(source, target)

    monkeypatch.setattr(folder_module.os, "replace", dies_at_the_weights)
    with pytest.raises(OSError, match="broken"):
        run.publish_model(run.staging)
    assert not (tmp_path / "config.json").exists()
    monkeypatch.undo()
    run.publish_model(run.staging)
    assert (tmp_path / "config.json").read_text() == "new"


def test_lines_of_steps_that_are_repeated_are_removed(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    for step in (1, 2, 3):
        run.append("metrics.jsonl", {"step": step})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    run.begin({}, False, ResumePoint(own_step=2), [])
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [1, 2]


def test_skipped_rows_are_read_back(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert run.read_skipped() == []
    skipped = [Skipped("rows", "a", "no such video", 3)]
    run.write_skipped(skipped)
    assert run.read_skipped() == skipped


def test_texts_without_utf8_and_with_odd_line_ends_do_not_break_the_logs(tmp_path: Path) -> None:
    """Half a character has no UTF-8; the others are line ends to `str.splitlines`."""
    odd = "\ud83d \u2028 \u2029 \x85"
    run = RunFolder(tmp_path)
    run.append("rollouts.jsonl", {"step": 1, "question": odd}, {"step": 2, "question": odd})
    run.begin({}, False, ResumePoint(own_step=1), [])
    [line] = (tmp_path / "rollouts.jsonl").read_text().splitlines()
    assert json.loads(line) == {"step": 1, "question": odd}
    skipped = [Skipped(odd, odd, odd)]
    run.write_skipped(skipped)
    assert run.read_skipped() == skipped


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full.*Free some room"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "the disk is full.*Free some room"),
        (SafetensorError("I/O error: No space left on device (os error 28)"), "the disk is full.*Free some room"),
        (OSError(errno.EACCES, "Permission denied"), r".Errno 13. Permission denied\).*Check the folder and its disk"),
        (
            SafetensorError("I/O error: File too large (os error 27)"),
            r"I.O error: File too large .os error 27\).*Check the folder",
        ),
        (RuntimeError(TORCH_WRITE), r".*unexpected pos.*Check the folder"),
    ],
)
def test_a_disk_that_fails_is_named(tmp_path: Path, error: Exception, message: str) -> None:
    run = RunFolder(tmp_path)
    run.publish(staged(run, "checkpoint-2"), keep=1)
    staged(run, "checkpoint-4")
    message = f"step 4: the checkpoint cannot be saved .{message}"
    with pytest.raises(TrainingError, match=message) as caught, run.saving("step 4: the checkpoint"):
        raise error
    assert "checkpoint-2 is complete" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not run.staging.exists()


@pytest.mark.parametrize(
    "error",
    [RuntimeError("CUDA error: out of memory"), FileNotFoundError(errno.ENOENT, "ours"), ValueError("ours")],
)
def test_an_error_that_is_not_of_the_disk_passes_through(tmp_path: Path, error: Exception) -> None:
    run = RunFolder(tmp_path)
    with pytest.raises(type(error)) as caught, run.saving("step 4: the checkpoint"):
        raise error
    assert caught.value is error


def test_a_log_on_a_full_disk_names_its_file(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(TrainingError, match=r"metrics\.jsonl cannot be saved \(the disk is full\)"):
        RunFolder(tmp_path).append("metrics.jsonl", {"step": 1})


def test_torch_does_not_say_that_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 1000})()
    monkeypatch.setattr(folder_module.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(TrainingError, match="the disk is full"), RunFolder(tmp_path).saving("step 4: the checkpoint"):
        raise RuntimeError(TORCH_WRITE)


def test_a_folder_that_was_removed_meanwhile_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(TrainingError, match="the folder is gone"),
        RunFolder(tmp_path / "gone").saving("step 4: the checkpoint"),
    ):
        raise FileNotFoundError(errno.ENOENT, "No such file")


def test_a_defect_of_ours_while_saving_keeps_its_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole run, up to its first checkpoint."""
    make_model(tmp_path / "model")
    make_data(tmp_path / "data", videos=2)

    def broken(*_: Any) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(trainer_module, "save_companions", broken)
    with pytest.raises(RuntimeError, match="illegal memory access") as caught:
        train_cold_start(recipe(tmp_path, max_steps=2))
    assert caught.traceback[-1].name == "broken"


def test_a_run_resumes_at_its_own_checkpoint_then_at_a_given_one_then_at_the_beginning(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.make()
    assert run.resume_point(None, False, 10) == ResumePoint()
    given = tmp_path / "other" / "checkpoint-6"
    given.mkdir(parents=True)
    (given / "trainer_state.json").write_text(json.dumps({"global_step": 6}))
    assert run.resume_point(str(given), False, 10) == ResumePoint(given, 6)
    with pytest.raises(TrainingError, match="stands at step 6, and this run ends at step 6"):
        run.resume_point(str(given), False, 6)
    with pytest.raises(TrainingError, match="between two of the 4 updates"):
        run.resume_point(str(given), False, 10, steps_per_rollout=4)
    own = run.path / "checkpoint-4"
    own.mkdir()
    skipped = [Skipped("rows", row, "no such video", step) for row, step in (("a", 0), ("b", 3), ("c", 5))]
    run.write_skipped(skipped)
    # Row "a" was found before the run and will be found again; row "c" belongs to a step that will be repeated.
    assert run.resume_point(str(given), False, 10) == ResumePoint(own, 4, 4, [skipped[1]])
    assert run.resume_point(str(given), True, 10) == ResumePoint(given, 6)
