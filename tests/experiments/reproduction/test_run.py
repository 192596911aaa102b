"""A small reproduction from its videos to its page. `make reproduce-smoke` runs all variants of the shipped recipe."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from experiments.reproduction.run import main
from tests.paths import ROOT
from videoreasoner.errors import SettingError
from videoreasoner.utils.files import locked


def call(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the command line; a code that is a text goes to stderr, as Python does."""
    code: int | str | None = 0
    try:
        main([*map(str, arguments)])
    except SystemExit as end:
        code = end.code
    out, err = capsys.readouterr()
    return (1, out, f"{err}{code}\n") if isinstance(code, str) else (code or 0, out, err)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """One given model, and one that is trained for a step."""
    one_step = {"max_steps": 1, "per_device_train_batch_size": 1, "dataloader_num_workers": 0}
    taught = {"title": "taught", "start": "given", "train": "cold-start", "changes": one_step, "modes": ["direct"]}
    test = {"variant": "taught", "mode": "direct", "metric": "answer", "over": "given", "margin": 0.5}
    content = {
        "out_dir": str(tmp_path / "out"),
        "results_dir": str(tmp_path / "docs" / "reproduction"),
        "seeds": [4],
        "videos": {
            "size": 32,
            "cold_start": {"videos": 1, "seed": 10},
            "queries": {"videos": 1, "seed": 20},
            "watched": {"videos": 1, "seed": 30},
            "evaluation": {"videos": 1, "seed": 20_000_001},
        },
        "training": {"cold-start": {"recipe": str(ROOT / "recipes" / "cold_start" / "tiny.yaml")}},
        "variants": {"given": {"title": "given", "model": "tiny", "modes": ["direct"]}, "taught": taught},
        "claims": {"C1": {"text": "It forgets nothing.", "tests": [test]}},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_a_reproduction_from_videos_to_its_page(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = call(capsys, "--recipe", recipe)
    assert code == 0, err
    folder = recipe.parent / "docs"
    page = folder / "reproduction.md"
    # One video says nothing about others.
    assert out.endswith(f"C1  open  It forgets nothing.\n{page}\n")
    made = json.loads((folder / "reproduction" / "made.json").read_text())
    assert {job["name"] for job in made["jobs"] if not job["name"].startswith("videos")} == {
        "eval-given-direct", "train-taught-4", "eval-taught-4-direct",
    }  # fmt: skip
    assert all(job["cpu_seconds"] > 0 and job["starts"] == 1 for job in made["jobs"])
    contents = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    # A second call runs nothing, and writes the same files as --page-only.
    code, out, err = call(capsys, "--recipe", recipe)
    assert code == 0, err
    assert "start" not in out
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == contents
    page.unlink()
    assert call(capsys, "--recipe", recipe, "--page-only")[0] == 0
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == contents


def test_what_fails_is_named_and_the_rest_is_done(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = call(capsys, "--recipe", recipe, "--set", "variants.given.model=/no/such/model")
    assert code == 1
    assert "FAILED eval-given-direct (exit code 2)" in out
    assert "/no/such/model" in out
    assert "end    videos-watched" in out
    assert "failed, or needs what failed: " in err
    assert not (recipe.parent / "docs").exists()
    # Another model is another recipe; the videos stay valid.
    code, _, err = call(capsys, "--recipe", recipe, "--set", "variants.given.model=tiny-base")
    assert (code, err.count("\n")) == (2, 1)
    assert "eval-given-direct" in err
    assert "videos" not in err
    assert "--overwrite" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--jobs", "0"], "--jobs must be 1 or more"),
        (["--seeds", "2"], "give 1 to 1"),
        (["--set", "clams=1"], "did you mean claims?"),
        (["--set", "out_dir=/dev/null/out"], "/dev/null/out: cannot be used"),
        (["--recipe", "/no/such.yaml"], "cannot be read"),
        (["--page-only"], "recipe.json: cannot be read"),
    ],
)
def test_mistakes_are_one_line(
    recipe: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    code, out, err = call(capsys, "--recipe", recipe, *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err


def test_two_calls_do_not_share_a_folder(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = recipe.parent / "out"
    out.mkdir()
    with locked(out / ".lock", SettingError):
        code, _, err = call(capsys, "--recipe", recipe)
    assert code == 2
    assert "another call is using this folder" in err
