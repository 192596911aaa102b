"""The dry run: what its report says of fitting, missing files, unusable rows, hours and launches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.training.toy import make_data, make_model, recipe_content
from videoreasoner.errors import SettingError
from videoreasoner.training.data.sources import read_sources
from videoreasoner.training.grpo.recipe import GrpoRecipe
from videoreasoner.training.planning.dry_run import dry_run, largest_batch, measured_rate
from videoreasoner.training.planning.memory import (
    Hardware,
)
from videoreasoner.training.planning.model import read_model
from videoreasoner.training.planning.row_sizes import row_sizes
from videoreasoner.training.recipe import ColdStartRecipe, Recipe, parse_recipe


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("planning")
    make_model(made / "model")
    make_data(made / "data")
    return made


def dry_run_report(recipe: Recipe, hardware: Hardware) -> str:
    return dry_run(recipe, hardware).text


def recipe_for(folder: Path, **changes: Any) -> ColdStartRecipe:
    return parse_recipe({**recipe_content(folder, folder / "data" / "plain.jsonl"), **changes}, ColdStartRecipe)


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
    assert f"Missing: {away}. Training will fail without it." in without
    # Four pairs of frames of 2 x 2 tokens.
    assert "assumed instead: a row as long as the recipe allows: 16 visual tokens" in without
    assert "rows: not known; an unknown number of steps" in without
    assert "hours: not known without the rows" in without
    half = report(there, away)
    assert "rows: 6 usable, 0 skipped in the files that are here; an unknown number of steps" in half
    assert "6 rows" in half
    assert f"Missing: {away}." in half
    whole = report(there)
    assert "Missing" not in whole
    assert "assumed" not in whole
    assert "at 2 rows/s (given)" in whole


@pytest.mark.parametrize("kind", [ColdStartRecipe, GrpoRecipe])
def test_rows_that_the_run_would_skip_are_counted_and_named(kind: type[Recipe], folder: Path, tmp_path: Path) -> None:
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
    assert "Missing: held-out.jsonl. Training will fail without it." in report
    assert "rows: 6 usable, 0 skipped; 6 steps of 2 rows" in report
    assert "assumed" not in report


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


def test_recipes_that_grpo_would_refuse_are_reported(folder: Path) -> None:
    content = recipe_content(folder, folder / "data" / "plain.jsonl")
    recipe = parse_recipe(content, GrpoRecipe)
    assert "CANNOT RUN" not in dry_run_report(recipe, Hardware(8, "zero3"))
    lora = {"lora": {"load_in_4bit": True, "lora_dropout": 0.0}, "dtype": "bfloat16"}
    quantised = parse_recipe({**content, **lora}, GrpoRecipe)
    assert "CANNOT RUN: lora.load_in_4bit" in dry_run_report(quantised, Hardware(8, "zero3"))
    assert "CANNOT RUN" not in dry_run_report(quantised, Hardware(8, "zero2"))
    with pytest.raises(SettingError, match="'nope' is none of"):
        dry_run_report(parse_recipe({**content, "rewards": {"nope": 1.0}}, GrpoRecipe), Hardware())


def test_what_cannot_run_or_does_not_fit_is_a_problem_and_nothing_then_fits(folder: Path) -> None:
    content = recipe_content(folder, folder / "data" / "plain.jsonl")
    possible = dry_run(parse_recipe(content, GrpoRecipe), Hardware(8, "zero2"))
    assert possible.problems == []
    assert "fits into 80 GB" in possible.text
    lossy = parse_recipe({**content, "dtype": "bfloat16", "bf16": True}, GrpoRecipe)
    split = dry_run(lossy, Hardware(8))
    assert len(split.problems) == 1
    assert "fits into" not in split.text
    small = dry_run(parse_recipe(content, GrpoRecipe), Hardware(device_gb=1.0))
    assert ["does not fit into 1 GB" in problem for problem in small.problems] == [True]
    assert "DOES NOT FIT into 1 GB" in small.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"report_to": "nosuchtracker"}, "report_to nosuchtracker: cannot be used here"),
        ({"report_to": ["tensorbord"]}, "report_to tensorbord: cannot be used here"),
        ({"optim": "adamw_touch"}, "optim: there is no 'adamw_touch'; did you mean adamw_torch?"),
        ({"lr_scheduler_type": "cosin"}, "lr_scheduler_type: there is no 'cosin'; did you mean cosine?"),
        ({"trainer": {"fsdpp": 1}}, "there is no key trainer.fsdpp"),
    ],
)
def test_names_that_training_would_refuse_are_reported(folder: Path, changes: dict[str, Any], message: str) -> None:
    report = dry_run(recipe_for(folder, **changes), Hardware())
    assert [problem[: len(message)] for problem in report.problems] == [message]
    assert f"CANNOT RUN: {message}" in report.text


def test_models_beside_the_trained_one_are_missed_too(folder: Path) -> None:
    content = recipe_content(folder, folder / "data" / "plain.jsonl", ref_model="./none")
    assert "Missing: ./none. Training will fail without it." in dry_run_report(
        parse_recipe(content, GrpoRecipe), Hardware()
    )
