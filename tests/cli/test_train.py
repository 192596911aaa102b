"""`videoreasoner train`: mistakes are one line and exit code 2; a dry run writes nothing."""

from __future__ import annotations

import subprocess
import sys
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
    assert "Missing: /none.jsonl. Training will fail without it." in out
    code, out, err = call(capsys, recipe, "--set", "data.0.path=/none.jsonl")
    assert (code, out) == (2, "")
    assert "/none.jsonl: no such file" in err


def test_a_dry_run_of_what_cannot_run_exits_with_2(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = recipe.parent / "data"
    for options, message in (
        (["--set", "report_to=nosuchtracker"], "report_to nosuchtracker"),
        (["--device-gb", "0.5"], "does not fit into 0.5 GB"),
    ):
        code, out, err = call(capsys, recipe, "--video-root", root, "--dry-run", *options)
        assert code == 2
        assert "memory of one of 1 device(s)" in out
        assert err.startswith(f"error: {recipe}: cannot run in this way: ")
        assert err.count("\n") == 1
        assert message in err


def test_shipped_recipes_are_found_by_name_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("tiny", "cold-start/tiny", "recipes/cold_start/tiny.yaml"):
        code, out, err = call(capsys, name, "--dry-run")
        assert (code, err) == (0, "")
        assert out.startswith("tiny-base: ")
    # A file of the user's comes first.
    (tmp_path / "tiny").write_text("base: cold-start/tiny\nmodel_name_or_path: tiny\n")
    assert call(capsys, "tiny", "--dry-run")[1].startswith("tiny: ")
    code, out, err = call(capsys, "tinny", "--dry-run")
    assert (code, out) == (2, "")
    assert "did you mean cold-start/tiny?" in err


def group(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        main(["train", *arguments])
    out, err = capsys.readouterr()
    return int(caught.value.code or 0), out, err


def test_a_shipped_recipe_can_be_listed_shown_changed_and_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, _ = group(capsys, "--list")
    assert code == 0
    listed = [line.split()[0] for line in out.splitlines()]
    assert {"accelerate/zero3", "cold-start/qwen2-vl-7b-1x8", "grpo/tiny"} <= set(listed)
    [line] = [line for line in out.splitlines() if line.startswith("grpo/qwen2-vl-2b-lora ")]
    assert "out/cold-start/qwen2-vl-2b-lora; one GPU of 24 GB. GRPO of adapters" in line
    for name in listed:
        code, shown, _ = group(capsys, "--show", name)
        assert code == 0
        code, place, _ = group(capsys, "--path", name)
        assert Path(place.strip()).read_text() == shown
    # A recipe with a base works where it was sent to.
    code, out, _ = group(capsys, "cold-start", "qwen2-vl-7b-1x8", "--show")
    (tmp_path / "mine.yaml").write_text(out)
    code, out, err = call(capsys, "mine.yaml", "--dry-run", "--strategy", "zero3", "--devices", "8")
    assert (code, err) == (0, "")
    assert "16 rows" in out


@pytest.mark.parametrize("arguments", [[], ["--show", "nothing"], ["--path", "accelerate/zero4"]])
def test_mistakes_around_the_list(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = group(capsys, *arguments)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert "videoreasoner train --list" in err


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


def test_an_error_of_all_processes_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("learning_rat: 1\n")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launch, "-m", "videoreasoner", "train", "cold-start", str(tmp_path / "bad.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode
    said = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(said) == 1
    assert "learning_rat" in said[0]


def test_an_error_of_one_process_is_said_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr("videoreasoner.cli.main._WAIT_S", 0.0)
    with pytest.raises(SystemExit) as ended:
        main(["train", "cold-start", str(tmp_path / "none.yaml")])
    assert ended.value.code == 2
    assert "none.yaml" in capsys.readouterr().err
