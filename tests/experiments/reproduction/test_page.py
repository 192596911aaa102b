from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from experiments.reproduction.claims import evaluate_claims, judge
from experiments.reproduction.page import page_text, write_page
from experiments.reproduction.recipe import load_reproduction
from experiments.reproduction.results import Results, read_results
from tests.experiments.reproduction.sample_results import RECIPE, ROOT, SMOKE, make_results, shipped_recipe


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Result files of all variants and seeds, and their page."""
    folder = tmp_path_factory.mktemp("docs") / "reproduction"
    make_results(folder, shipped_recipe(), videos=10)
    write_page(folder)
    return folder


@pytest.fixture(scope="module")
def results(folder: Path) -> Results:
    return read_results(folder)


@pytest.fixture(scope="module")
def text(results: Results) -> str:
    return page_text(results, "reproduction")


def test_the_same_files_give_the_same_bytes(folder: Path) -> None:
    made = [folder.with_name("reproduction.md"), folder / "scores.png", folder / "curves.png"]
    before = [path.read_bytes() for path in made]
    assert write_page(folder).endswith(str(made[0]))
    assert [path.read_bytes() for path in made] == before


def test_every_variant_mode_claim_and_verdict_is_on_the_page(results: Results, text: str) -> None:
    for variant in results.recipe.variants.values():
        for mode in variant.modes:
            [line] = [line for line in text.splitlines() if line.startswith(f"| {variant.title} | {mode} |")]
            # Only mode focus locates events.
            assert ("|  |" in line) == (mode != "focus")
    for name, tests in evaluate_claims(results).items():
        verdict = judge([test.verdict for test in tests])
        assert f"| {name} | {results.recipe.claims[name].text} | **{verdict}** |" in text
        lines = [line for line in text.splitlines() if line.startswith(f"| {name} | ")]
        assert [line.split(" | ")[-1] for line in lines[1:]] == [f"{test.verdict} |" for test in tests]
    # One value per seed.
    assert lines[-1].split(" | ")[4].count(",") == len(results.recipe.seeds) - 1
    assert "interrupted" not in text


def test_a_smoke_run_gives_no_verdicts(tmp_path: Path) -> None:
    folder = tmp_path / "smoke"
    make_results(folder, load_reproduction(SMOKE), videos=2)
    said = write_page(folder)
    text = folder.with_name("smoke.md").read_text(encoding="utf-8")
    assert said == f"Everything ran. The videos and steps are too few for verdicts.\n{folder.with_name('smoke.md')}"
    assert "There are no verdicts, because this was a smoke run." in text
    cells = {line.split(" | ")[-1].strip(" |*") for line in text.splitlines() if re.match(r"\| C\d \|", line)}
    assert cells == {"none"}


def test_flaws_of_a_run_are_on_its_page_and_on_no_other(results: Results, text: str) -> None:
    """Files without the format of the videos are from before the held-out split became one of pairs."""
    old = page_text(replace(results, made={**results.made}), "reproduction")
    assert "old split" in old
    assert "old split" not in page_text(replace(results, made={**results.made, "video_format": 2}), "reproduction")
    assert "skip_flat_groups: true" in text


def test_numbers_on_the_page_are_those_of_the_files(results: Results, text: str) -> None:
    values = results.values("sft", "focus", "answer", "plain")
    assert values is not None
    found = results.estimate(values, "plain", is_share=True)
    [line] = [x for x in text.splitlines() if x.startswith("| cold start + SFT on the queries | focus")]
    assert f"| {100 * found.mean:.1f} [{100 * found.low:.1f}, {100 * found.high:.1f}] |" in line
    assert "20 questions about 10 held-out videos" in text
    assert "| queries | 2,500 | 5,000 | plain | 1 to 2 | 5 to 20 % | 600, 601, 602 |" in text
    assert "Versions: videoreasoner 0.1.0; videoreasoner 0.1.1.\n" in text


def test_the_committed_page_belongs_to_the_committed_files_and_recipe() -> None:
    results = read_results(ROOT / "docs" / "reproduction")
    assert (ROOT / "docs" / "reproduction.md").read_text(encoding="utf-8") == page_text(results, "reproduction")
    assert results.recipe == load_reproduction(RECIPE, seeds=len(results.recipe.seeds))


def test_interrupted_jobs_are_named(folder: Path) -> None:
    results = read_results(folder)
    results.made["jobs"][0]["starts"] = 2
    text = page_text(results, "reproduction")
    assert f"1 of {len(results.made['jobs'])} jobs were interrupted" in text
    assert results.made["jobs"][0]["name"] in text


def test_files_that_the_page_names_exist(folder: Path, text: str) -> None:
    for word in text.replace("`", " ").replace("(", " ").replace(")", " ").split():
        if word.startswith(("recipes/", "experiments/")):
            assert (ROOT / word).is_file(), word
        elif word.endswith(".md") and "/" not in word:
            assert (ROOT / "docs" / word.strip("[]")).is_file(), word
        elif word.startswith("reproduction/") and "]" not in word:
            assert (folder.parent / word).exists(), word
