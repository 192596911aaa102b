"""`videoreasoner reproduce` with arms that take seconds; all arms are run by `make reproduce-smoke`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tests.paths import ROOT
from videoreasoner.cli.main import main


def call(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        main(["reproduce", *map(str, arguments)])
    out, err = capsys.readouterr()
    assert isinstance(caught.value.code, int)
    return caught.value.code, out, err


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """One model, asked directly and trained for a step."""
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
        "arms": {
            "given": {"title": "given", "model": "tiny", "modes": ["direct"]},
            "taught": {
                "title": "taught",
                "start": "given",
                "train": "cold-start",
                "changes": {"max_steps": 1, "per_device_train_batch_size": 1, "dataloader_num_workers": 0},
                "modes": ["direct"],
            },
        },
        "claims": {
            "C1": {
                "text": "It forgets nothing.",
                "tests": [{"arm": "taught", "mode": "direct", "metric": "answer", "over": "given", "margin": 0.5}],
            }
        },
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_a_reproduction_from_videos_to_its_page(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = call(capsys, "--recipe", recipe, "--jobs", "1")
    assert code == 0, err
    folder = recipe.parent / "docs"
    page = folder / "reproduction.md"
    assert out.endswith(f"C1  PASS  It forgets nothing.\n{page}\n")
    made = json.loads((folder / "reproduction" / "made.json").read_text())
    assert {job["name"] for job in made["jobs"] if not job["name"].startswith("videos")} == {
        "eval-given-direct", "train-taught-4", "eval-taught-4-direct",
    }  # fmt: skip
    assert all(job["cpu_seconds"] > 0 and job["starts"] == 1 for job in made["jobs"])
    contents = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    # Nothing is run again, and neither this nor `report` writes anything else.
    code, out, err = call(capsys, "--recipe", recipe)
    assert code == 0, err
    assert "start" not in out
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == contents
    page.unlink()
    assert call(capsys, "report", folder / "reproduction")[0] == 0
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == contents


def test_what_cannot_be_run_is_named_and_the_rest_goes_on(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes = ["--set", "arms.given.model=/no/such/model"]
    code, out, err = call(capsys, "--recipe", recipe, *changes)
    assert code == 1
    assert "FAILED eval-given-direct (exit code 2)" in out
    assert "/no/such/model" in out
    assert "end    videos-watched" in out
    assert "could not be run: " in err
    assert not (recipe.parent / "docs").exists()
    # The videos are those of the right recipe as well; what began with the wrong model is another recipe's.
    code, _, err = call(capsys, "--recipe", recipe, "--set", "arms.given.model=tiny-base")
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
        (["--recipe", "/no/such.yaml"], "cannot be read"),
        (["report", "/no/such/folder"], "recipe.json: cannot be read"),
    ],
)
def test_mistakes_are_one_line(
    recipe: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    first = [] if arguments[0] in ("--recipe", "report") else ["--recipe", recipe]
    code, out, err = call(capsys, *first, *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err
