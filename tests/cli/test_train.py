"""`videoreasoner train`: mistakes are one line and exit code 2; a dry run writes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.toy import make_data, make_model, recipe_content, write_recipe
from videoreasoner.cli.main import main


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    make_model(tmp_path / "model")
    data = make_data(tmp_path / "data", videos=2)
    content = recipe_content(tmp_path, data, max_steps=1)
    del content["video_root"]
    return write_recipe(tmp_path / "recipe.yaml", content)


def call(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        main(["train", "cold-start", *map(str, arguments)])
    out, err = capsys.readouterr()
    assert isinstance(caught.value.code, int)
    return caught.value.code, out, err


def test_a_run_from_the_command_line(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = recipe.parent / "data"
    code, out, err = call(capsys, recipe, "--video-root", root, "--set", "learning_rate=1e-4")
    folder = recipe.parent / "out"
    assert code == 0, err
    assert out == f"{folder}: the trained model\n"
    assert "training begins: 2 rows, 1 steps" in err
    assert (folder / "model.safetensors").is_file()
    code, _, err = call(capsys, recipe, "--video-root", root, "--set", "learning_rate=1e-5")
    assert code == 2
    assert err.count("\n") == 1
    assert "differs in recipe.learning_rate" in err
    code, *_ = call(capsys, recipe, "--video-root", root, "--set", "learning_rate=1e-5", "--overwrite")
    assert code == 0


def test_a_dry_run_writes_nothing(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = recipe.parent / "data"
    before = sorted(recipe.parent.rglob("*"))
    options = ["--devices", "8", "--strategy", "fsdp2", "--device-gb", "24", "--rows-per-second", "4"]
    code, out, _ = call(capsys, recipe, "--video-root", root, "--dry-run", *options)
    assert code == 0
    assert "memory of one of 8 device(s), fsdp2" in out
    assert "fits into 24 GB" in out
    assert "1 steps of 16 rows" in out
    assert sorted(recipe.parent.rglob("*")) == before


def test_only_a_dry_run_continues_without_data(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = call(capsys, recipe, "--dry-run", "--set", "data.0.path=/none.jsonl")
    assert code == 0, err
    assert "NOT HERE: /none.jsonl; a real start stops there" in out
    code, out, err = call(capsys, recipe, "--set", "data.0.path=/none.jsonl")
    assert (code, out) == (2, "")
    assert "/none.jsonl: no such file" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "lerning_rate=1"], "did you mean learning_rate?"),
        (["--dry-run", "--strategy", "zero9"], "choose one of ddp, zero2, zero3, fsdp2"),
        ([], "check video_root"),
    ],
)
def test_mistakes_are_one_line(
    recipe: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    code, out, err = call(capsys, recipe, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
