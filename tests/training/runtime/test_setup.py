"""From a recipe to a run: a recipe that cannot be run is refused before anything is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.training.runtime.runs import content_for, metrics, train
from videoreasoner.errors import SettingError, TrainingError, VideoReasonerError
from videoreasoner.training.cold_start import prepare_cold_start, train_cold_start
from videoreasoner.training.planning.dry_run import Hardware, dry_run
from videoreasoner.training.recipe import ColdStartRecipe, loses_updates, parse_recipe
from videoreasoner.training.runtime import setup as start


def test_a_schedule_may_have_settings_of_its_own(folder: Path, tmp_path: Path) -> None:
    changes = {"lr_scheduler_type": "warmup_stable_decay", "trainer": {"lr_scheduler_kwargs": {"num_decay_steps": 2}}}
    out = train(content_for(folder, tmp_path / "out", **changes))
    assert [line["learning_rate"] for line in metrics(out)][-1] < 1e-3


def test_nothing_that_a_run_begins_from_is_removed_by_it(folder: Path, tmp_path: Path) -> None:
    out = train(content_for(folder, tmp_path / "out", max_steps=2))
    for changes in ({"model_name_or_path": str(out)}, {"resume_from_checkpoint": str(out / "checkpoint-2")}):
        content = {**content_for(folder, out, max_steps=2), **changes}
        with pytest.raises(SettingError, match=r"lies in output_dir.*another output_dir"):
            train_cold_start(parse_recipe(content, ColdStartRecipe), overwrite=True)
    assert (out / "checkpoint-2" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"model_name_or_path": "/nowhere"}, VideoReasonerError, "no such folder"),
        ({"settings": {"frame_bugdet": 8}}, SettingError, "frame_bugdet"),
        ({"settings": {"training": {}}}, SettingError, "written by training itself"),
        ({"lora": {"target_modules": ["no_such_layer"]}}, SettingError, "no_such_layer"),
        ({"lora": {"load_in_4bit": True}}, SettingError, "needs a GPU"),
        ({"lr_scheduler_type": "sideways"}, SettingError, "sideways"),
        ({"lr_scheduler_type": "cosine_with_min_lr"}, SettingError, r"min_lr.*trainer\.lr_scheduler_kwargs"),
        ({"lr_scheduler_type": "warmup_stable_decay"}, SettingError, r"num_decay_steps.*trainer\.lr_scheduler_kwargs"),
        ({"lr_scheduler_type": "reduce_lr_on_plateau"}, SettingError, "requires an eval strategy"),
        ({"optim": "sideways"}, SettingError, "sideways"),
        ({"optim": "lomo"}, SettingError, "optim lomo: cannot be used here .*install"),
        ({"report_to": "sideways"}, SettingError, "report_to sideways: "),
        ({"report_to": "wandb"}, SettingError, "report_to wandb: .*installed"),
        ({"eval_data": [{"path": "/nowhere.jsonl"}]}, VideoReasonerError, "/nowhere.jsonl: no such file"),
        ({"output_dir": "/proc/none/out"}, TrainingError, "cannot be written"),
    ],
)
def test_a_recipe_that_cannot_be_run_is_refused_before_anything_is_written(
    folder: Path, tmp_path: Path, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        train({**content_for(folder, tmp_path / "out"), **changes})
    assert not (tmp_path / "out" / "run.json").exists()


def test_bfloat16_weights_are_trained_where_float32_ones_stand_beside_them_alone(folder: Path, tmp_path: Path) -> None:
    content = content_for(folder, tmp_path / "out", dtype="bfloat16")
    recipe = parse_recipe(content, ColdStartRecipe)
    with pytest.raises(SettingError, match=r"lose most updates .*accelerate/zero2"):
        prepare_cold_start(recipe)
    assert not (tmp_path / "out").exists()
    for strategy, refused in (("ddp", True), ("zero2", False), ("fsdp2", False)):
        assert ("CANNOT RUN" in dry_run(recipe, Hardware(strategy=strategy)).text) == refused
    assert prepare_cold_start(parse_recipe({**content, "lora": {"r": 4}}, ColdStartRecipe))
    assert not loses_updates(recipe, is_split=True)


def test_adapters_that_fsdp_cannot_split_are_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = parse_recipe({**content_for(folder, tmp_path / "out"), "lora": {"r": 4}}, ColdStartRecipe)
    for strategy, refused in (("ddp", False), ("zero3", False), ("fsdp2", True)):
        assert ("its output layer is its embedding" in dry_run(recipe, Hardware(strategy=strategy)).text) == refused
    monkeypatch.setattr(start, "has_fsdp", lambda args: True)
    with pytest.raises(SettingError, match="its output layer is its embedding"):
        prepare_cold_start(recipe)
