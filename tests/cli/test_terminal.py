"""No text that a user, a file or a model brings reaches the terminal as a control character."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from tests.cli.calling import Loading, Run

EVIL = "a\x1b]0;title\x07\rb\x9b2J\u202ec"
# `repr` and typer write `\x1b`, everything else is written as `\u001b`.
SHOWN = re.compile(r"a\\(u00|x)1b\]0;title\\(u00|x)07")
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_questions_and_options(run: Run, video_file: Path, loading: Loading, form: tuple[str, ...]) -> None:
    result = run("ask", video_file, EVIL, "-o", EVIL, "-o", "blue", *form)
    assert result.code == 0
    assert SHOWN.search(result.out)
    assert not CONTROLS.search(result.out + result.err)
    if form:
        assert json.loads(result.out)["question"] == EVIL


def test_names_of_videos(run: Run, video_file: Path, tmp_path: Path, loading: Loading) -> None:
    good = shutil.copy(video_file, tmp_path / f"{EVIL}.mp4")
    page = tmp_path / f"{EVIL}.html"
    for result in (
        run("ask", good, "What?", "--report", page),
        run("ask", tmp_path / EVIL, "What?"),
        run("search", good, EVIL, "--device", "cpu"),
        run("ask", good, EVIL, "-o", EVIL, "-o", EVIL),
    ):
        assert SHOWN.search(result.out + result.err)
        assert not CONTROLS.search(result.out + result.err)


def test_names_of_models_flags_and_keys(run: Run, video_file: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(json.dumps({EVIL: 1}))
    for result in (
        run("ask", video_file, "What?", "--model", EVIL),
        run("ask", video_file, "What?", "--set", f"{EVIL}=1"),
        run("ask", video_file, "What?", f"--{EVIL}"),
        run("train", "cold-start", recipe),
        run("train", "cold-start", EVIL),
    ):
        assert result.code == 2
        assert SHOWN.search(result.err)
        assert not CONTROLS.search(result.out + result.err)


def test_batch(run: Run, video_file: Path, tmp_path: Path, loading: Loading) -> None:
    rows, out = tmp_path / "rows.jsonl", tmp_path / "answers.jsonl"
    row = {"id": EVIL, "video": str(tmp_path / EVIL), "question": "What?"}
    rows.write_text(json.dumps(row) + "\n")
    result = run("ask", "--batch", rows, "--out", out)
    assert result.code == 2
    assert SHOWN.search(result.err)
    assert not CONTROLS.search(result.out + result.err + out.read_text())
