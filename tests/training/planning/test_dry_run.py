"""The dry run: exact where it counts, and the same tokens that training sees."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.models.tiny_models import random_qwen2_5_vl, random_qwen2_vl
from tests.training.toy import make_data, make_model, recipe_content
from videoreasoner.errors import CheckpointError, SettingError
from videoreasoner.models.checkpoint import load_checkpoint
from videoreasoner.models.tree_batch import token_log_probs
from videoreasoner.rows import Row, read_rows, write_rows
from videoreasoner.training.cold_start import target_batch
from videoreasoner.training.data.sources import read_sources, usable_tasks
from videoreasoner.training.grpo.recipe import GrpoRecipe
from videoreasoner.training.planning.dry_run import (
    dry_run_report,
    largest_batch,
    measured_rate,
)
from videoreasoner.training.planning.memory import (
    STRATEGIES,
    Hardware,
    StepShape,
    count_parameters,
    estimate,
    trained_parameters,
)
from videoreasoner.training.planning.model import PUBLISHED, meta_model, published_name, read_model
from videoreasoner.training.planning.row_sizes import longest_row, row_sizes
from videoreasoner.training.recipe import ColdStartRecipe, Lora, Recipe, parse_recipe
from videoreasoner.training.runtime.adapters import add_adapters
from videoreasoner.training.runtime.setup import example_maker, load_model

STEP = StepShape(1, 4000, 3600, 60)
ONE_GPU = Hardware()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("dry")
    make_model(made / "model")
    make_data(made / "data")
    return made


def recipe_for(folder: Path, **changes: Any) -> ColdStartRecipe:
    return parse_recipe({**recipe_content(folder, folder / "data" / "plain.jsonl"), **changes}, ColdStartRecipe)


def published(name: str) -> Any:
    return meta_model(PUBLISHED[name])


def plain(**changes: Any) -> ColdStartRecipe:
    """A recipe of which only what the memory depends on counts."""
    content = {"model_name_or_path": "m", "output_dir": "o", "data": [{"path": "d"}], **changes}
    return parse_recipe(content, ColdStartRecipe)


@pytest.mark.parametrize("make", [random_qwen2_vl, random_qwen2_5_vl])
@pytest.mark.parametrize("tied", [True, False])
def test_parameters_are_counted_exactly(make: Any, tied: bool, folder: Path) -> None:
    model = make(tied=tied)
    network = meta_model(model.config.to_dict())
    assert all(parameter.is_meta for parameter in network.parameters())
    everything = sum(p.numel() for p in model.parameters())
    vision = sum(p.numel() for p in model.model.visual.parameters())
    assert count_parameters(network) == trained_parameters(network, plain()) == everything
    assert trained_parameters(network, plain(freeze_vision=True)) == everything - vision
    encoder = load_checkpoint(folder / "model", "cpu").encoder
    for number, target_modules in enumerate([Lora().target_modules, ["q_proj", "mlp.down_proj"]]):
        lora = Lora(r=4, target_modules=target_modules)
        adapted = add_adapters(make(tied=tied), lora, encoder, number)
        adapters = sum(p.numel() for name, p in adapted.named_parameters() if "lora_" in name)
        assert trained_parameters(network, plain(lora=lora.model_dump())) == adapters


def test_the_published_models_have_their_published_sizes() -> None:
    """The sums of the tensors in the published weights."""
    sizes = {name: count_parameters(published(name)) for name in PUBLISHED}
    assert sizes == {
        "qwen2-vl-2b": 2_208_985_600,
        "qwen2-vl-7b": 8_291_375_616,
        "qwen2.5-vl-3b": 3_754_622_976,
        "qwen2.5-vl-7b": 8_292_166_656,
    }
    assert published_name("Qwen/Qwen2-VL-7B-Instruct") == published_name("Qwen/Qwen2-VL-7B") == "qwen2-vl-7b"
    assert published_name("org/other") is None


def test_a_configuration_in_the_old_flat_layout_is_read() -> None:
    config = PUBLISHED["qwen2-vl-2b"]
    flat = {name: value for name, value in config.items() if name != "text_config"} | config["text_config"]
    assert count_parameters(meta_model(flat)) == 2_208_985_600


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "llama"}, "'llama' is not supported"),
        ({"text_config": {"hidden_size": "wide"}}, "Field 'hidden_size' expected int"),
        ({"text_config": {"num_attention_heads": 0}}, "ZeroDivisionError"),
        ({"text_config": {"hidden_size": -8}}, "negative dimension"),
    ],
)
def test_a_configuration_that_is_none_is_named(
    changes: dict[str, Any], message: str, folder: Path, tmp_path: Path
) -> None:
    make_model(tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    for name, value in changes.items():
        config[name] = {**config[name], **value} if isinstance(value, dict) else value
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=message) as caught:
        read_model(recipe_for(folder, model_name_or_path=str(tmp_path / "model")))
    assert str(tmp_path / "model") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_tokens_are_those_of_training(folder: Path) -> None:
    recipe = recipe_for(folder, max_length=165)
    model = read_model(recipe)
    sources = read_sources(recipe.data, recipe.row_fields, recipe.video_root)
    sizes, opened, refused = row_sizes(recipe, model, sources)
    assert (opened, len(sizes), refused) == (6, 6, [])
    assert len({size.visual for size in sizes}) > 1
    maker = example_maker(recipe, load_model(recipe), recipe.max_target_length)
    for row, size in zip(sources[0].rows, sizes, strict=True):
        made = maker.example("rows", row, row.video_path(folder / "data"))
        assert size.total == made.tokens
        assert size.visual == int(made.prompt.trunk.visual.sum())
        assert size.targets == tuple(map(len, made.targets.values()))


@pytest.mark.parametrize(
    ("tasks", "rewards"),
    [
        (["event", "answer"], {}),
        # Judged by fields that hold no target of theirs.
        (["think"], {"accuracy": 1.0}),
        (["key_elements", "answer"], {"key_element_retrieval": 1.0, "accuracy": 1.0}),
    ],
)
def test_the_tokens_are_those_of_grpo(
    tasks: list[str], rewards: dict[str, float], folder: Path, tmp_path: Path
) -> None:
    """Of rows that hold what completions are judged by, and nothing that a cold start would be taught."""
    without = {"key_elements": None, "reasoning": None}
    rows = [Row.model_validate({**row.model_dump(), **without}) for row in read_rows(folder / "data" / "plain.jsonl")]
    write_rows(tmp_path / "rows.jsonl", rows)
    content = recipe_content(folder, tmp_path / "rows.jsonl", max_length=165, tasks=tasks)
    content["video_root"] = str(folder / "data")
    recipe = parse_recipe({**content, **({"rewards": rewards} if rewards else {})}, GrpoRecipe)
    model = read_model(recipe)
    sources = read_sources(recipe.data, recipe.row_fields, recipe.video_root)
    sizes, *_ = row_sizes(recipe, model, sources)
    maker = example_maker(recipe, load_model(recipe), None)
    for row, size in zip(sources[0].rows, sizes, strict=True):
        made = maker.example("rows", row, row.video_path(folder / "data"))
        assert list(made.prompt.prefixes) == usable_tasks(row, recipe.row_fields) != []
        assert (size.total, size.visual, size.targets) == (made.tokens, int(made.prompt.trunk.visual.sum()), ())
    assert "6 usable" in dry_run_report(recipe, Hardware())


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl"])
def test_activations_are_what_autograd_keeps(folder: Path, tmp_path: Path, family: str) -> None:
    """Counted tensor by tensor."""
    checkpoint = load_checkpoint(make_model(tmp_path / "model", family), "cpu")
    recipe = recipe_for(folder)
    maker = example_maker(recipe, checkpoint, recipe.max_target_length)
    row = read_sources(recipe.data, recipe.row_fields, recipe.video_root)[0].rows[0]
    example = maker.example("rows", row, row.video_path(folder / "data"))
    batch = target_batch([example] * 4, checkpoint.encoder.pad_id)
    clips = batch.clip_inputs([example.patches] * 4)
    known = {p.untyped_storage().data_ptr() for p in checkpoint.model.parameters()}
    kept: dict[int, Any] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        token_log_probs(checkpoint.model.train(), batch, clips).mean()
    found = sum(storage.nbytes() for storage in kept.values())
    visual = int(example.prompt.trunk.visual.sum())
    step = StepShape(4, example.tokens, visual, len(batch.labels) // 4)
    memory = estimate(checkpoint.model, recipe, ONE_GPU, step)
    # Of the logits' memory only the log-softmax is kept; the rest comes and goes.
    assert memory["activations"] + memory["logits"] / 5 == pytest.approx(found, rel=0.1)


def test_splitting_divides_what_it_says() -> None:
    network, everything = published("qwen2-vl-7b"), 8_291_375_616
    whole = estimate(network, plain(), ONE_GPU, STEP)
    assert (whole["weights"], whole["optimizer"]) == (everything * 4, everything * 8)
    recipe = plain(dtype="bfloat16", bf16=True)
    for strategy in STRATEGIES:
        one, many = (estimate(network, recipe, Hardware(devices, strategy), STEP) for devices in (1, 8))
        assert one["activations"] == many["activations"]
        assert (many["optimizer"] == one["optimizer"]) == (strategy == "ddp")
        assert (many["weights"] == one["weights"]) == (strategy in ("ddp", "zero2"))
    zero3 = estimate(network, recipe, Hardware(16, "zero3"), STEP)
    assert zero3["optimizer"] == everything * 12 / 16


def test_what_saves_memory_saves_memory() -> None:
    network, bfloat16 = published("qwen2.5-vl-7b"), {"dtype": "bfloat16", "bf16": True}

    def memory(step: StepShape = STEP, **changes: Any) -> dict[str, float]:
        return estimate(network, plain(**bfloat16, **changes), ONE_GPU, step)

    adapters = memory(lora={"r": 64})
    totals = [
        sum(each.values())
        for each in (memory(gradient_checkpointing=False), memory(), memory(freeze_vision=True), adapters)
    ]
    assert totals == sorted(totals, reverse=True)
    assert len(set(totals)) == 4
    quantised = memory(lora={"r": 64, "load_in_4bit": True})
    # 6.5 B of 8.3 B weights, from two bytes to about half of one.
    assert adapters["weights"] - quantised["weights"] == pytest.approx(6.525e9 * 1.484, rel=0.01)
    assert memory(replace(STEP, rows=2))["activations"] == 2 * memory()["activations"]


def test_logits_are_planned_for_in_the_chunks_that_training_computes() -> None:
    """Some 900 tokens of a published model at a time, however long the targets are and however many the rows."""
    network, vocabulary = published("qwen2-vl-7b"), 152_064
    recipe = plain(dtype="bfloat16", bf16=True)
    one, few, many = (
        estimate(network, recipe, ONE_GPU, replace(STEP, rows=rows, targets=targets))["logits"]
        for rows, targets in ((1, 60), (4, 60), (4, 1536))
    )
    assert few == 4 * one
    # In bfloat16 as computed and its gradient; in float32 the logits, their log-softmax and its gradient.
    assert many == (2**29 // (4 * vocabulary)) * vocabulary * 16


def test_the_largest_batch_fits_and_one_more_does_not(folder: Path) -> None:
    recipe = recipe_for(folder)
    model = read_model(recipe)
    sizes, *_ = row_sizes(recipe, model, read_sources(recipe.data, recipe.row_fields, recipe.video_root))

    def largest(device_gb: float, **changes: Any) -> int:
        return largest_batch(recipe_for(folder, **changes), Hardware(device_gb=device_gb), model.network, sizes)

    few = [largest(gb) for gb in (1.0, 1.6, 2.0)]
    assert few[0] == 0 < few[1] < few[2]
    # A row per task needs more than one tree for all.
    assert largest(2.0, shared_prompt=False) < few[2]


def test_a_published_model_needs_neither_folder_nor_network(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.socket.connect", None)
    monkeypatch.chdir(tmp_path)
    rows = [json.loads(line) for line in (folder / "data" / "plain.jsonl").read_text().splitlines()]
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps({**row, "video": "away.mp4"}) for row in rows))
    recipe = recipe_for(
        folder, model_name_or_path="Qwen/Qwen2-VL-7B", data=[{"path": "rows.jsonl"}], dtype="bfloat16", bf16=True,
        output_dir="out", gradient_checkpointing=True,
    )  # fmt: skip
    report = dry_run_report(recipe, Hardware(16, "zero3", 80.0, 2.0))
    assert "8.29 B parameters" in report
    assert "0 videos looked into, texts counted by characters" in report
    assert "fits into 80 GB" in report
    assert "at 2 rows/s (given)" in report
    alone = dry_run_report(recipe, Hardware(1, "ddp", 24.0))
    assert "DOES NOT FIT" in alone
    assert "a recipe with lora" in alone
    assert "hours: not known" in alone
    assert list(tmp_path.iterdir()) == [tmp_path / "rows.jsonl"]


@pytest.mark.parametrize("kind", [ColdStartRecipe, GrpoRecipe])
def test_without_its_files_a_recipe_is_planned_for_its_longest_row(kind: type[Recipe], folder: Path) -> None:
    there, away = str(folder / "data" / "plain.jsonl"), str(folder / "none.jsonl")

    def report(*paths: str) -> str:
        content = recipe_content(folder, Path(there), max_steps=-1)
        recipe = parse_recipe({**content, "data": [{"path": path} for path in paths]}, kind)
        return dry_run_report(recipe, Hardware(1, "ddp", 24.0, 2.0))

    without = report(away)
    assert f"NOT HERE: {away}; a real start stops there" in without
    # Four pairs of frames of 2 x 2 tokens.
    assert "assumed instead: a row as long as the recipe allows: 16 visual tokens" in without
    assert "rows: not known; an unknown number of steps" in without
    assert "hours: not known without the rows" in without
    half = report(there, away)
    assert "rows: 6 usable, 0 skipped in the files that are here; an unknown number of steps" in half
    assert "6 rows" in half
    assert f"NOT HERE: {away};" in half
    whole = report(there)
    assert "NOT HERE" not in whole
    assert "assumed" not in whole
    assert "at 2 rows/s (given)" in whole


@pytest.mark.parametrize("kind", [ColdStartRecipe, GrpoRecipe])
def test_rows_that_the_run_would_skip_are_said(kind: type[Recipe], folder: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (folder / "data" / "plain.jsonl").read_text().splitlines()]
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    rows[0]["video"] = str(tmp_path / "broken.mp4")
    rows[1]["video"] = str(tmp_path / "away.mp4")
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    content = {**recipe_content(folder, path), "video_root": str(folder / "data")}
    report = dry_run_report(parse_recipe(content, kind), Hardware())
    assert "rows: 6 usable, 0 skipped, videos of 1 not here; " in report
    named = f"1 of 6 rows looked at would be skipped; the first: {rows[0]['id']} of {path}: {tmp_path}/broken.mp4"
    assert named in report
    assert "CANNOT RUN: 16.7% of the rows would be skipped, and max_skipped_fraction is 0.02" in report
    raised = dry_run_report(parse_recipe({**content, "max_skipped_fraction": 0.2}, kind), Hardware())
    assert named in raised
    assert "CANNOT RUN" not in raised


def test_missing_held_out_rows_are_named(folder: Path) -> None:
    report = dry_run_report(recipe_for(folder, eval_data=[{"path": "held-out.jsonl"}]), Hardware())
    assert "NOT HERE: held-out.jsonl; a real start stops there" in report
    assert "rows: 6 usable, 0 skipped; 6 steps of 2 rows" in report
    assert "assumed" not in report


def test_the_longest_row_holds_every_row(folder: Path) -> None:
    recipe = recipe_for(folder)
    model = read_model(recipe)
    sizes, *_ = row_sizes(recipe, model, read_sources(recipe.data, recipe.row_fields, recipe.video_root))
    longest = longest_row(recipe, model)
    assert longest.visual == max(size.visual for size in sizes)
    assert longest.text > max(size.text for size in sizes)
    few = longest_row(recipe_for(folder, max_length=longest.total - 1), model)
    assert (few.visual, few.text) == (longest.visual - 4, longest.text)
    with pytest.raises(SettingError, match="max_length 2048"):
        longest_row(recipe_for(folder, max_length=2048), model)


def test_hours_come_from_what_was_measured(tmp_path: Path) -> None:
    assert measured_rate(str(tmp_path)) is None
    lines = [{"step": 0, "parse_rate": 0.5}]
    lines += [{"step": n, "rows": 4, "time/update": s, "time/wait": 0.5} for n, s in [(1, 60.0), (2, 1.5), (3, 1.5)]]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert measured_rate(str(tmp_path)) == 2.0
    # Two steps on the same rows, with rollouts before the first of them.
    first = {"rows": 4, "time/wait": 0.5, "time/rollout": 1.0, "time/rewards": 0.25, "time/reference": 0.25}
    lines = [{**first, "time/update": 1.0}, {"rows": 0, "time/update": 1.0}] * 2
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, [{"rows": 9, "time/update": 99.0}, *lines])))
    assert measured_rate(str(tmp_path)) == 1.0
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('\n{"step": 5, "lo')
    assert measured_rate(str(tmp_path)) == 1.0


def test_what_grpo_would_refuse_is_said(folder: Path) -> None:
    content = recipe_content(folder, folder / "data" / "plain.jsonl")
    recipe = parse_recipe(content, GrpoRecipe)
    assert "CANNOT RUN: GRPO samples from whole weights" in dry_run_report(recipe, Hardware(8, "zero3"))
    assert "CANNOT RUN" not in dry_run_report(recipe, Hardware(8, "zero2"))
    with pytest.raises(SettingError, match="'nope' is none of"):
        dry_run_report(parse_recipe({**content, "rewards": {"nope": 1.0}}, GrpoRecipe), Hardware())


@pytest.mark.parametrize(("changes", "message"), [({"strategy": "zero4"}, "zero4"), ({"devices": 0}, "at least 1")])
def test_impossible_hardware(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        Hardware(**changes)
