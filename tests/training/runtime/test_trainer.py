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

from tests.training.runtime.runs import content_for, metrics, train
from tests.training.toy import make_model
from videoreasoner.errors import TrainingError
from videoreasoner.inference.reasoner import Reasoner
from videoreasoner.models.checkpoint import load_checkpoint
from videoreasoner.rows import read_rows
from videoreasoner.tasks import EVENT_TOKENS, Task
from videoreasoner.training import cold_start
from videoreasoner.training.cold_start import prepare_cold_start
from videoreasoner.training.recipe import ColdStartRecipe, parse_recipe
from videoreasoner.training.runtime.setup import train as train_run

FAMILIES = {"qwen2_vl": Qwen2VLForConditionalGeneration, "qwen2_5_vl": Qwen2_5_VLForConditionalGeneration}


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

    def poisoned(*arguments: Any, **options: Any) -> torch.Tensor:
        calls[0] += 1
        values = log_probs(*arguments, **options)
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
    changes |= {"save_steps": 1, "save_total_limit": 4, "weight_decay": 0.1}
    out = train({**content_for(folder, tmp_path / "out", **changes), "data": [{"path": str(path)}]})
    lines = metrics(out)
    assert sorted(line["rows"] for line in lines) == [0, 0, 1, 1]
    assert all(math.isfinite(line["loss"]) for line in lines)
    # It changes no weight: neither momentum nor decay acts without anything to learn.
    [idle, *_] = [line["step"] for line in lines if line["rows"] == 0 and line["step"] > 1]
    before, after = (load_file(out / f"checkpoint-{step}" / "model.safetensors") for step in (idle - 1, idle))
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_vision_tower_stays_where_it_is_frozen(folder: Path, tmp_path: Path) -> None:
    out = train(content_for(folder, tmp_path / "out", freeze_vision=True, max_steps=2))
    start, end = load_file(folder / "model" / "model.safetensors"), load_file(out / "model.safetensors")
    for name, tensor in start.items():
        assert torch.equal(tensor, end[name]) == ("visual" in name), name
