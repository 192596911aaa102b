from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image, ImageColor

from experiments.reproduction.claims import examine_all, judge
from experiments.reproduction.page import page_text, write_page
from experiments.reproduction.plots import _COLOURS
from experiments.reproduction.recipe import load_reproduction
from experiments.reproduction.results import read_results
from tests.experiments.reproduction.made import ROOT, make_results, shipped


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Result files of all seeds, as many and as large as a whole run's, and their page."""
    folder = tmp_path_factory.mktemp("docs") / "reproduction"
    make_results(folder, shipped())
    write_page(folder)
    return folder


def test_the_same_files_give_the_same_bytes(folder: Path) -> None:
    made = [folder.with_name("reproduction.md"), folder / "scores.png", folder / "curves.png"]
    before = [path.read_bytes() for path in made]
    assert write_page(folder).endswith(str(made[0]))
    assert [path.read_bytes() for path in made] == before


def test_all_of_it_is_small_enough_to_commit(folder: Path) -> None:
    assert sum(path.stat().st_size for path in folder.rglob("*.json")) < 1_000_000
    for name in ("scores.png", "curves.png"):
        assert (folder / name).stat().st_size <= 150_000
        assert Image.open(folder / name).width >= 900


def test_every_line_keeps_its_colour(folder: Path) -> None:
    """Fewer colours make smaller files, and must not make two arms look alike."""
    colours = Image.open(folder / "curves.png").convert("RGB").getcolors(2**24)
    assert colours is not None
    assert {ImageColor.getrgb(colour) for colour in _COLOURS} <= {colour for _, colour in colours}


def test_every_arm_mode_claim_and_verdict_is_on_the_page(folder: Path) -> None:
    results = read_results(folder)
    text = page_text(results, folder.name)
    for arm in results.recipe.arms.values():
        for mode in arm.modes:
            [line] = [line for line in text.splitlines() if line.startswith(f"| {arm.title} | {mode} |")]
            # A mode that locates nothing has no event.
            assert ("|  |" in line) == (mode != "focus")
    for name, (claim, findings) in examine_all(results).items():
        assert f"| {name} | {claim.text} | **{judge(findings)}** |" in text
        lines = [line for line in text.splitlines() if line.startswith(f"| {name} | ")]
        assert [line.split(" | ")[-1] for line in lines[1:]] == [f"{finding.verdict} |" for finding in findings]
    # One value for each seed.
    assert lines[-1].split(" | ")[4].count(",") == len(results.recipe.seeds) - 1
    assert "interrupted" not in text


def test_a_number_on_the_page_is_that_of_the_files(folder: Path) -> None:
    results = read_results(folder)
    values = results.values("sft", "focus", "answer", "plain")
    assert values is not None
    found = results.estimate(values, "plain")
    [line] = [
        x for x in page_text(results, "r").splitlines() if x.startswith("| cold start + SFT on the queries | focus")
    ]
    assert f"| {100 * found.mean:.1f} [{100 * found.low:.1f}, {100 * found.high:.1f}] |" in line
    assert (
        f"{len(results.questions['ids'])} questions about {len(set(results.questions['videos']))} held-out videos"
        in (page_text(results, "r"))
    )


def test_the_committed_page_is_that_of_the_committed_files_and_recipe() -> None:
    results = read_results(ROOT / "docs" / "reproduction")
    assert (ROOT / "docs" / "reproduction.md").read_text(encoding="utf-8") == page_text(results, "reproduction")
    recipe = load_reproduction(ROOT / "experiments" / "recipes" / "reproduce.yaml", [], len(results.recipe.seeds))
    assert results.recipe == recipe


def test_each_version_that_evaluated_is_named(folder: Path) -> None:
    assert "\nvideoreasoner 0.1.0; videoreasoner 0.1.1.\n" in page_text(read_results(folder), folder.name)


def test_interrupted_jobs_are_named(folder: Path) -> None:
    results = read_results(folder)
    results.made["jobs"][0]["starts"] = 2
    text = page_text(results, "r")
    assert f"1 of {len(results.made['jobs'])} jobs were interrupted" in text
    assert results.made["jobs"][0]["name"] in text


def test_files_and_links_that_the_page_names_are_there(folder: Path) -> None:
    text = page_text(read_results(folder), "reproduction")
    for word in text.replace("`", " ").replace("(", " ").replace(")", " ").split():
        if word.startswith("recipes/"):
            assert (ROOT / word).is_file(), word
        elif word.endswith(".md") and "/" not in word:
            assert (ROOT / "docs" / word.strip("[]")).is_file(), word
        elif word.startswith("reproduction/") and "]" not in word:
            assert (folder.parent / word).exists(), word
