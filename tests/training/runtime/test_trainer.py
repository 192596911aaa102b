"""A whole run: what it leaves behind, what stops it, and that it says so."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2VLForConditionalGeneration

from tests.training.toy import make_data, make_model, recipe_content
from videoreasoner.errors import RowError, SettingError, TrainingError, VideoReasonerError
from videoreasoner.inference.reasoner import Reasoner
from videoreasoner.models.checkpoint import load_checkpoint
from videoreasoner.rows import read_rows
from videoreasoner.tasks import EVENT_TOKENS, Task
from videoreasoner.training import cold_start
from videoreasoner.training.cold_start import prepare_cold_start, train_cold_start
from videoreasoner.training.planning.dry_run import Hardware, dry_run_report
from videoreasoner.training.recipe import ColdStartRecipe, loses_updates, parse_recipe
from videoreasoner.training.runtime import setup as start
from videoreasoner.training.runtime.setup import train as train_run

FAMILIES = {"qwen2_vl": Qwen2VLForConditionalGeneration, "qwen2_5_vl": Qwen2_5_VLForConditionalGeneration}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("trainer")
    make_model(made / "model", event_tokens=False)
    make_data(made / "data")
    return made


def train(content: dict[str, Any]) -> Path:
    return train_cold_start(parse_recipe(content, ColdStartRecipe))


def content_for(folder: Path, out: Path, **changes: Any) -> dict[str, Any]:
    return recipe_content(folder, folder / "data" / "plain.jsonl", output_dir=str(out), **changes)


def metrics(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_what_a_run_leaves_behind(folder: Path, tmp_path: Path) -> None:
    eval_data = [{"path": str(folder / "data" / "plain.jsonl")}]
    content = content_for(folder, tmp_path / "out", eval_data=eval_data, eval_rows=3, eval_steps=2)
    out = train(content)
    lines = metrics(out)
    assert [line["step"] for line in lines] == list(range(7))
    for line in lines[1:]:
        assert line["rows"] == 2
        assert line["rows_skipped"] == 0
        parts = {"loss", "loss/answer", "grad_norm", "learning_rate", "epoch", "tokens", "memory/peak_gb"}
        assert parts | {"time/wait", "time/decode", "time/update"} <= line.keys()
    assert [line["epoch"] for line in lines[1:]] == pytest.approx([(n + 1) / 3 for n in range(6)], abs=1e-3)
    assert [("parse_rate" in line) for line in lines] == [True, False, True, False, True, False, True]
    samples = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    assert {sample["step"] for sample in samples} == {0, 2, 4, 6}
    assert {sample["task"] for sample in samples} == set(Task) - {Task.THINK}
    assert [path.name for path in sorted(out.glob("checkpoint-*"))] == ["checkpoint-4", "checkpoint-6"]
    card = (out / "README.md").read_text()
    assert f"| {folder / 'data' / 'plain.jsonl'} | 6 | 0 | 1 |" in card
    assert "synthetic (6)" in card
    assert "max_steps: 6" in card
    assert (out / "skipped.jsonl").read_text() == ""


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("lora", [None, {"r": 4}])
def test_the_trained_model_is_loaded_by_stock_transformers_and_asked(
    folder: Path, tmp_path: Path, family: str, lora: Any
) -> None:
    make_model(tmp_path / "model", family, event_tokens=False)
    start = {name: tensor.clone() for name, tensor in load_file(tmp_path / "model" / "model.safetensors").items()}
    content = content_for(folder, tmp_path / "out", model_name_or_path=str(tmp_path / "model"), lora=lora, max_steps=2)
    out = train(content)
    model, report = FAMILIES[family].from_pretrained(out, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert load_file(out / "model.safetensors").keys() == start.keys()
    ours = load_checkpoint(out, "cpu")
    state = ours.model.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert ours.settings.training["base"] == str(tmp_path / "model")
    assert all(token in ours.encoder.tokenizer.get_vocab() for token in EVENT_TOKENS)
    row = next(read_rows(folder / "data" / "plain.jsonl"))
    answer = Reasoner.from_pretrained(str(out), device="cpu", encoder="none").ask(
        row.video_path(folder / "data"), row.question, options=row.options or ()
    )
    assert answer.choice in "ABCD"
    # A checkpoint on the way is such a folder too, except that adapters lie beside their base there.
    if lora is None:
        assert load_checkpoint(out / "checkpoint-2", "cpu").settings == ours.settings
    else:
        assert (out / "adapter" / "adapter_model.safetensors").is_file()


def test_training_lowers_the_loss(folder: Path, tmp_path: Path) -> None:
    lines = metrics(train(content_for(folder, tmp_path / "out", max_steps=30, learning_rate=3e-3)))
    assert lines[-1]["loss"] < 0.5 * lines[0]["loss"]


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_what_is_not_finite_stops_before_the_weights_change(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    trainer = prepare_cold_start(parse_recipe(content_for(folder, tmp_path / "out"), ColdStartRecipe))
    log_probs, calls = cold_start.token_log_probs, [0]

    class Poison(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, values: torch.Tensor) -> torch.Tensor:
            return values.clone()

        @staticmethod
        def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
            return gradient * math.nan

    def poisoned(*arguments: Any) -> torch.Tensor:
        calls[0] += 1
        values = log_probs(*arguments)
        if calls[0] != 4:
            return values
        return values * math.inf if where == "loss" else Poison.apply(values)

    monkeypatch.setattr(cold_start, "token_log_probs", poisoned)
    with pytest.raises(TrainingError, match=rf"step 4: the {where}.*synthetic-train-s0-.*checkpoint-2") as caught:
        train_run(trainer)
    assert str(caught.value).count("synthetic-train") == 2
    monkeypatch.undo()
    train(content_for(folder, tmp_path / "straight"))
    assert all(torch.isfinite(p).all() for p in trainer.run.model.parameters())
    assert [line["loss"] for line in metrics(tmp_path / "out")] == [
        line["loss"] for line in metrics(tmp_path / "straight")[:3]
    ]


def test_too_many_unusable_rows_stop_the_run(folder: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (folder / "data" / "plain.jsonl").read_text().splitlines()]
    (folder / "data" / "broken.mp4").write_bytes(b"no video")
    rows[2] = {**rows[2], "id": "bad", "video": "broken.mp4"}
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    content = {**content_for(folder, tmp_path / "out", max_steps=4), "data": [{"path": str(path)}]}
    with pytest.raises(TrainingError, match=r"1 of 6 rows cannot be used \(1 of .*rows\.jsonl\).*bad: .*broken\.mp4"):
        train(content)
    out = train({**content, "max_skipped_fraction": 0.2})
    lines = metrics(out)
    assert lines[-1]["rows_skipped"] == 1
    # Never replaced: the step is a row short.
    assert sum(line["rows"] for line in lines) == 2 * 4 - 1
    [skipped] = [json.loads(line) for line in (out / "skipped.jsonl").read_text().splitlines()]
    assert (skipped["row"], skipped["source"]) == ("bad", str(path))
    assert f"| {path} | 5 | 1 | 1 |" in (out / "README.md").read_text()


def test_a_step_without_any_usable_row_goes_by(folder: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (folder / "data" / "plain.jsonl").read_text().splitlines()]
    (folder / "data" / "broken.mp4").write_bytes(b"no video")
    rows = [rows[0], {**rows[1], "id": "bad", "video": "broken.mp4"}]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    changes = {"per_device_train_batch_size": 1, "max_steps": 4, "max_skipped_fraction": 0.5}
    out = train({**content_for(folder, tmp_path / "out", **changes), "data": [{"path": str(path)}]})
    assert sorted(line["rows"] for line in metrics(out)) == [0, 0, 1, 1]
    assert all(math.isfinite(line["loss"]) for line in metrics(out))


def test_a_schedule_may_have_settings_of_its_own(folder: Path, tmp_path: Path) -> None:
    changes = {"lr_scheduler_type": "warmup_stable_decay", "trainer": {"lr_scheduler_kwargs": {"num_decay_steps": 2}}}
    out = train(content_for(folder, tmp_path / "out", **changes))
    assert [line["learning_rate"] for line in metrics(out)][-1] < 1e-3


def test_nothing_that_a_run_begins_from_is_removed_by_it(folder: Path, tmp_path: Path) -> None:
    out = train(content_for(folder, tmp_path / "out", max_steps=2))
    for changes in ({"model_name_or_path": str(out)}, {"resume_from_checkpoint": str(out / "checkpoint-2")}):
        content = {**content_for(folder, out, max_steps=2), **changes}
        with pytest.raises(SettingError, match=r"is of output_dir.*another output_dir"):
            train_cold_start(parse_recipe(content, ColdStartRecipe), overwrite=True)
    assert (out / "checkpoint-2" / "model.safetensors").is_file()


def test_key_elements_are_sampled_for_rows_that_have_none(folder: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (folder / "data" / "plain.jsonl").read_text().splitlines()]
    held_out = tmp_path / "held-out.jsonl"
    held_out.write_text("".join(json.dumps({**row, "key_elements": None}) + "\n" for row in rows))
    eval_data = [{"path": str(held_out)}]
    out = train(content_for(folder, tmp_path / "out", eval_data=eval_data, eval_rows=2, max_steps=1))
    sampled = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    assert {line["task"] for line in sampled} == {"event", "key_elements", "answer"}
    assert all(line["score"] is None for line in sampled if line["task"] == "key_elements")
    held_out.write_text("".join(json.dumps({**row, "event": None}) + "\n" for row in rows))
    with pytest.raises(VideoReasonerError, match=r"held-out\.jsonl: no row supports the task event"):
        train(content_for(folder, tmp_path / "other", eval_data=eval_data))
    assert not (tmp_path / "other" / "run.json").exists()


def test_the_vision_tower_stays_where_it_is_frozen(folder: Path, tmp_path: Path) -> None:
    out = train(content_for(folder, tmp_path / "out", freeze_vision=True, max_steps=2))
    start, end = load_file(folder / "model" / "model.safetensors"), load_file(out / "model.safetensors")
    for name, tensor in start.items():
        assert torch.equal(tensor, end[name]) == ("visual" in name), name


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
def test_what_cannot_be_run_is_said_before_anything_is_written(
    folder: Path, tmp_path: Path, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        train({**content_for(folder, tmp_path / "out"), **changes})
    assert not (tmp_path / "out" / "run.json").exists()


def test_held_out_rows_that_cannot_be_read_are_left_out_and_named(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (folder / "data" / "plain.jsonl").read_text().splitlines(keepends=True)
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    held_out = tmp_path / "held-out.jsonl"
    held_out.write_text(json.dumps({**json.loads(lines[0]), "id": "bad", "video": str(broken)}) + "\n" + "".join(lines))
    eval_data = [{"path": str(held_out), "video_root": str(folder / "data")}]
    out = train(content_for(folder, tmp_path / "out", eval_data=eval_data, eval_rows=2, max_steps=1))
    sampled = {json.loads(line)["row"] for line in (out / "samples.jsonl").read_text().splitlines()}
    assert sampled == {json.loads(line)["id"] for line in lines[:2]}
    assert f"eval_data: {held_out}, row bad is left out: {broken}" in capsys.readouterr().err


def test_bfloat16_weights_are_trained_where_float32_ones_stand_beside_them_alone(folder: Path, tmp_path: Path) -> None:
    content = content_for(folder, tmp_path / "out", dtype="bfloat16")
    recipe = parse_recipe(content, ColdStartRecipe)
    with pytest.raises(SettingError, match=r"lose most updates .*zero2\.yaml"):
        prepare_cold_start(recipe)
    assert not (tmp_path / "out").exists()
    for strategy, refused in (("ddp", True), ("zero2", False), ("fsdp2", False)):
        assert ("CANNOT RUN" in dry_run_report(recipe, Hardware(strategy=strategy))) == refused
    assert prepare_cold_start(parse_recipe({**content, "lora": {"r": 4}}, ColdStartRecipe))
    assert not loses_updates(recipe, is_split=True)


def test_adapters_that_fsdp_cannot_split_are_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = parse_recipe({**content_for(folder, tmp_path / "out"), "lora": {"r": 4}}, ColdStartRecipe)
    for strategy, refused in (("ddp", False), ("zero3", False), ("fsdp2", True)):
        assert ("its output layer is its embedding" in dry_run_report(recipe, Hardware(strategy=strategy))) == refused
    monkeypatch.setattr(start, "has_fsdp", lambda args: True)
    with pytest.raises(SettingError, match="its output layer is its embedding"):
        prepare_cold_start(recipe)


def test_thinking_is_taught_where_it_is_listed_and_judged_by_the_answer(folder: Path, tmp_path: Path) -> None:
    data = folder / "data" / "plain.jsonl"
    lines = [json.loads(line) for line in data.read_text().splitlines()]
    answers = tmp_path / "answers.jsonl"
    answers.write_text("".join(json.dumps({k: v for k, v in row.items() if k != "reasoning"}) + "\n" for row in lines))
    eval_data = [{"path": str(answers), "video_root": str(folder / "data")}]
    content = content_for(folder, tmp_path / "out", tasks=["think"], eval_data=eval_data, eval_rows=2, max_steps=2)
    first, *_, last = metrics(train(content))
    assert last["loss"] == pytest.approx(last["loss/think"], rel=1e-4)
    for line in (first, last):
        assert {"parse_rate/think", "accuracy/think"} <= line.keys()
    assert not {"loss/answer", "parse_rate/answer"} & last.keys()
    with pytest.raises(RowError, match="supports none of the tasks think"):
        train({**content, "data": eval_data, "output_dir": str(tmp_path / "other")})
