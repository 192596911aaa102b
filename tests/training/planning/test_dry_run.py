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
from videoreasoner.errors import SettingError
from videoreasoner.models.checkpoint import load_checkpoint
from videoreasoner.rows import Row, read_rows, write_rows
from videoreasoner.training.cold_start import target_nats
from videoreasoner.training.data.dataset import Collator
from videoreasoner.training.data.queries import QueryMaker
from videoreasoner.training.data.sources import Skipped, read_sources
from videoreasoner.training.grpo.recipe import GrpoRecipe
from videoreasoner.training.planning.dry_run import (
    Hardware,
    dry_run_report,
    largest_batch,
    lesson_tokens,
    measured_rate,
    planned_method,
)
from videoreasoner.training.planning.grpo_dry_run import grpo_dry_run_report, query_tokens
from videoreasoner.training.planning.memory import (
    STRATEGIES,
    Method,
    Precision,
    StepShape,
    estimate,
    trained_parameters,
)
from videoreasoner.training.planning.row_sizes import Model, RowSize, longest_row, read_model, row_sizes
from videoreasoner.training.planning.shapes import PUBLISHED, config_shape, published_shape
from videoreasoner.training.recipe import ColdStartRecipe, Lora, Recipe, parse_recipe
from videoreasoner.training.runtime.adapters import add_adapters
from videoreasoner.training.runtime.setup import lessons_for, load_model

STEP = StepShape(1, 4000, 3600, 60)
FULL = Method("ddp", 1, Precision(4, False))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("dry")
    make_model(made / "model")
    make_data(made / "data")
    return made


def recipe_for(folder: Path, **changes: Any) -> ColdStartRecipe:
    return parse_recipe({**recipe_content(folder, folder / "data" / "plain.jsonl"), **changes}, ColdStartRecipe)


def sizes_of(recipe: ColdStartRecipe, model: Model) -> tuple[list[RowSize], int, list[Skipped]]:
    sources = read_sources(recipe.data, recipe.tasks, recipe.video_root)
    return row_sizes(recipe, model, lesson_tokens(recipe, model), sources)


@pytest.mark.parametrize("make", [random_qwen2_vl, random_qwen2_5_vl])
@pytest.mark.parametrize("tied", [True, False])
def test_parameters_are_counted_exactly(make: Any, tied: bool, folder: Path) -> None:
    model = make(tied=tied)
    shape = config_shape(model.config.to_dict())
    assert shape.parameters == sum(p.numel() for p in model.parameters())
    assert shape.vision.parameters == sum(p.numel() for p in model.model.visual.parameters())
    encoder = load_checkpoint(folder / "model", "cpu").encoder
    adapted = add_adapters(model, Lora(r=4), encoder, 0)
    adapters = sum(p.numel() for name, p in adapted.named_parameters() if "lora_" in name)
    assert trained_parameters(shape, replace(FULL, adapter_rank=4)) == adapters


def test_the_published_models_have_their_published_sizes() -> None:
    """The sums of the tensors in the published weights."""
    sizes = {name: shape.parameters for name, shape in PUBLISHED.items()}
    assert sizes == {
        "qwen2-vl-2b": 2_208_985_600,
        "qwen2-vl-7b": 8_291_375_616,
        "qwen2.5-vl-3b": 3_754_622_976,
        "qwen2.5-vl-7b": 8_292_166_656,
    }
    assert published_shape("Qwen/Qwen2-VL-7B-Instruct") == published_shape("Qwen/Qwen2-VL-7B") is not None
    assert published_shape("org/other") is None


def test_the_tokens_are_those_of_training(folder: Path) -> None:
    recipe = recipe_for(folder, max_length=165)
    model = read_model(recipe)
    sources = read_sources(recipe.data, recipe.tasks, recipe.video_root)
    sizes, looked_into, refused = row_sizes(recipe, model, lesson_tokens(recipe, model), sources)
    assert (looked_into, len(sizes), refused) == (6, 6, [])
    assert len({size.visual for size in sizes}) > 1
    lessons = lessons_for(recipe, load_model(recipe))
    for row, size in zip(sources[0].rows, sizes, strict=True):
        made = lessons.example("rows", row, row.video_path(folder / "data"))
        tree = made.lesson.trees[0]
        assert size.total == len(tree)
        assert size.visual == len(made.tokens)
        assert size.targets == tuple(len(tree.tree.tokens[target.node]) for target in made.lesson.targets)


@pytest.mark.parametrize(
    ("tasks", "rewards"),
    [
        (["event", "answer"], {}),
        # Judged by fields that hold no target of theirs.
        (["think"], {"accuracy": 1.0}),
        (["key_elements", "answer"], {"key_element_retrieval": 1.0, "accuracy": 1.0}),
    ],
)
def test_the_tokens_are_those_of_queries(
    tasks: list[str], rewards: dict[str, float], folder: Path, tmp_path: Path
) -> None:
    """Of rows that hold what a query is judged by, and nothing that a cold start would be taught."""
    without = {"key_elements": None, "reasoning": None}
    rows = [Row.model_validate({**row.model_dump(), **without}) for row in read_rows(folder / "data" / "plain.jsonl")]
    write_rows(tmp_path / "rows.jsonl", rows)
    content = recipe_content(folder, tmp_path / "rows.jsonl", max_length=165, tasks=tasks)
    content["video_root"] = str(folder / "data")
    recipe = parse_recipe({**content, **({"rewards": rewards} if rewards else {})}, GrpoRecipe)
    model = read_model(recipe)
    sources = read_sources(recipe.data, recipe.fields, recipe.video_root)
    sizes, *_ = row_sizes(recipe, model, query_tokens(recipe, model), sources)
    lessons = lessons_for(recipe, load_model(recipe))
    wanted = {task: frozenset({recipe.field(task)}) for task in recipe.tasks}
    maker = QueryMaker(lessons.encoder, lessons.reader, wanted, recipe.max_length, lessons.tokens_per_second)
    for row, size in zip(sources[0].rows, sizes, strict=True):
        query = maker.example("rows", row, row.video_path(folder / "data"))
        assert list(query.prefixes) == [task for task in recipe.tasks if recipe.field(task) in row.tasks()]
        assert (size.total, size.visual, size.targets) == (query.tokens, int(query.trunk.visual.sum()), ())
    assert "6 usable" in grpo_dry_run_report(recipe, Hardware())


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl"])
def test_activations_are_what_autograd_keeps(folder: Path, tmp_path: Path, family: str) -> None:
    """Counted tensor by tensor."""
    checkpoint = load_checkpoint(make_model(tmp_path / "model", family), "cpu")
    recipe = recipe_for(folder)
    lessons = replace(lessons_for(recipe, checkpoint), tokens_per_second=checkpoint.tokens_per_second)
    row = read_sources(recipe.data, recipe.tasks, recipe.video_root)[0].rows[0]
    example = lessons.example("rows", row, row.video_path(folder / "data"))
    batch = Collator(lessons.encoder, lessons.reader)([example] * 4)
    known = {p.untyped_storage().data_ptr() for p in checkpoint.model.parameters()}
    kept: dict[int, Any] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        target_nats(checkpoint.model.train(), batch).mean()
    found = sum(storage.nbytes() for storage in kept.values())
    shape = config_shape(checkpoint.model.config.to_dict())
    step = StepShape(4, len(example.lesson.trees[0]), len(example.tokens), len(batch["labels"]) // 4)
    memory = estimate(shape, replace(FULL, recomputes=False), step)
    # Of the logits' memory only the log-softmax is kept; the rest comes and goes.
    assert memory.activations + memory.logits / 5 == pytest.approx(found, rel=0.1)


def test_splitting_divides_what_it_says() -> None:
    shape = PUBLISHED["qwen2-vl-7b"]
    assert estimate(shape, FULL, STEP).weights == shape.parameters * 4
    assert estimate(shape, FULL, STEP).optimizer == shape.parameters * 8
    for strategy in STRATEGIES:
        method = Method(strategy, 8, Precision(2, True))
        one, many = estimate(shape, replace(method, devices=1), STEP), estimate(shape, method, STEP)
        assert one.activations == many.activations
        assert (many.optimizer == one.optimizer) == (strategy == "ddp")
        assert (many.weights == one.weights) == (strategy in ("ddp", "zero2"))
    zero3 = estimate(shape, Method("zero3", 16, Precision(2, True)), STEP)
    assert zero3.optimizer == shape.parameters * 12 / 16


def test_what_saves_memory_saves_memory() -> None:
    shape, method = PUBLISHED["qwen2.5-vl-7b"], Method("ddp", 1, Precision(2, True))
    lora = replace(method, adapter_rank=64)
    totals = [
        estimate(shape, each, STEP).total
        for each in (replace(method, recomputes=False), method, replace(method, has_frozen_vision=True), lora)
    ]
    assert totals == sorted(totals, reverse=True)
    assert len(set(totals)) == 4
    quantised = estimate(shape, replace(lora, is_4bit=True), STEP)
    # 6.5 B of 8.3 B weights, from two bytes to about half of one.
    assert estimate(shape, lora, STEP).weights - quantised.weights == pytest.approx(6.525e9 * 1.484, rel=0.01)
    more = replace(STEP, rows=2)
    assert estimate(shape, method, more).activations == 2 * estimate(shape, method, STEP).activations


def test_the_largest_batch_fits_and_one_more_does_not(folder: Path) -> None:
    recipe = recipe_for(folder)
    model = read_model(recipe)
    sizes, *_ = sizes_of(recipe, model)
    method = planned_method(recipe, Hardware())
    few = [largest_batch(model, method, sizes, gb, True) for gb in (1.0, 1.6, 2.0)]
    assert few[0] == 0 < few[1] < few[2]
    # A row a task needs more than one tree for all.
    assert largest_batch(model, method, sizes, 2.0, False) < few[2]


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
        make = grpo_dry_run_report if isinstance(recipe, GrpoRecipe) else dry_run_report
        return make(recipe, Hardware(1, "ddp", 24.0, 2.0))

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
    make = grpo_dry_run_report if kind is GrpoRecipe else dry_run_report
    report = make(parse_recipe(content, kind), Hardware())
    assert "rows: 6 usable, 0 skipped, videos of 1 not here; " in report
    named = f"1 of 6 rows looked at would be skipped; the first: {rows[0]['id']} of {path}: {tmp_path}/broken.mp4"
    assert named in report
    assert "CANNOT RUN: 16.7% of the rows would be skipped, and max_skipped_fraction is 0.02" in report
    raised = make(parse_recipe({**content, "max_skipped_fraction": 0.2}, kind), Hardware())
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
    sizes, *_ = sizes_of(recipe, model)
    longest = longest_row(recipe, model, (recipe.max_target_length,) * len(recipe.tasks))
    assert longest.visual == max(size.visual for size in sizes)
    assert longest.text > max(size.text for size in sizes)
    few = longest_row(recipe_for(folder, max_length=longest.total - 1), model, longest.targets)
    assert (few.visual, few.text) == (longest.visual - 4, longest.text)
    with pytest.raises(SettingError, match="max_length 2048"):
        longest_row(recipe_for(folder, max_length=2048), model, longest.targets)


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
    assert "CANNOT RUN: GRPO samples from whole weights" in grpo_dry_run_report(recipe, Hardware(8, "zero3"))
    assert "CANNOT RUN" not in grpo_dry_run_report(recipe, Hardware(8, "zero2"))
    with pytest.raises(SettingError, match="'nope' is none of"):
        grpo_dry_run_report(parse_recipe({**content, "rewards": {"nope": 1.0}}, GrpoRecipe), Hardware())


@pytest.mark.parametrize(("changes", "message"), [({"strategy": "zero4"}, "zero4"), ({"devices": 0}, "at least 1")])
def test_impossible_hardware(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        Hardware(**changes)
