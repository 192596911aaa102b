from __future__ import annotations

from pathlib import Path

import pytest

from experiments.reproduction.jobs import Job, priorities
from experiments.reproduction.plan import Plan
from experiments.reproduction.recipe import KINDS, load_reproduction
from tests.experiments.reproduction.made import RECIPE, shipped
from tests.paths import ROOT
from videoreasoner.errors import SettingError
from videoreasoner.training.recipe import Recipe, load_recipe


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def read(job: Job) -> Recipe:
    """The recipe that a training command reads."""
    kind, path, *options = job.arguments[1:]
    assert options[::2] == ["--set"] * (len(options) // 2)
    return load_recipe(Path(path), KINDS[kind], options[1::2])


def test_jobs_stand_behind_those_that_they_need() -> None:
    plan = Plan(shipped())
    seen: set[str] = set()
    for name, job in plan.jobs.items():
        assert set(job.after) <= seen
        seen.add(name)
    longest = priorities(plan.jobs.values())
    for job in plan.jobs.values():
        assert all(longest[name] >= plan.jobs[name].minutes + longest[job.name] for name in job.after)
    # The longest chain of all begins with videos, and goes through a cold start and GRPO.
    assert max(longest, key=longest.__getitem__).startswith("videos-cold_start")


def test_every_arm_starts_from_its_own_seed_and_has_the_same_queries() -> None:
    recipe = shipped()
    plan = Plan(recipe)
    queries = recipe.videos.queries.rows
    for (name, seed), folder in plan.trained.items():
        job = plan.jobs[f"train-{name}-{seed}"]
        trained = read(job)
        start = recipe.arms[name].start
        assert start is not None
        expected = "tiny-base" if start == "base" else str(plan.trained[start, seed])
        assert (trained.model_name_or_path, trained.output_dir, trained.seed) == (expected, str(folder), seed)
        assert (start == "base") == (f"train-{start}-{seed}" not in job.after)
        videos = plan.jobs[f"videos-{recipe.arms[name].rows}-{seed}"]
        assert videos.name in job.after
        assert {Path(source.path or "").parent for source in trained.data} == {videos.folder}
        if recipe.arms[name].rows == "queries":
            # Each query once: no arm sees more of them than its control.
            assert (trained.num_train_epochs, trained.max_steps) == (1, -1)
            assert videos.arguments[videos.arguments.index("--videos") + 1] == str(queries // 2)


def test_the_text_chain_has_the_budget_of_the_arms_that_locate() -> None:
    plan = Plan(shipped())
    for chain, other in (("think-cold-start", "cold-start"), ("think", "grpo-both")):
        a, b = (read(plan.jobs[f"train-{name}-0"]) for name in (chain, other))
        own = {"tasks", "settings", "rewards", "max_completion_length", "output_dir", "model_name_or_path"}
        assert a.model_dump(exclude=own) == b.model_dump(exclude=own)


def test_all_arms_are_asked_the_same() -> None:
    plan = Plan(shipped())
    asked = set()
    for (_, _, mode), folder in plan.runs.items():
        arguments = list(plan.jobs[f"eval-{folder.name}"].arguments)
        # What differs, with its value; the rest is the same word for word.
        for name, value in (("--mode", mode), ("--out", str(folder)), ("--model", None)):
            at = arguments.index(name)
            assert value in (None, arguments[at + 1])
            del arguments[at : at + 2]
        asked.add(tuple(arguments))
    assert len(asked) == 1


def test_a_change_concerns_an_arm_and_what_comes_after_it() -> None:
    before = Plan(shipped()).jobs
    after = Plan(load_reproduction(RECIPE, ["arms.think-cold-start.changes.learning_rate=1e-3"])).jobs
    changed = {name for name in before if before[name].identity != after[name].identity}
    assert changed == {name for name in before if "think" in name}


def test_what_only_decides_how_fast_changes_nothing() -> None:
    before = Plan(shipped()).jobs
    after = Plan(load_reproduction(RECIPE, ["training.grpo.changes.save_steps=7", "arms.sft.minutes=1"])).jobs
    assert all(before[name].identity == after[name].identity for name in before)


def test_a_seed_more_changes_nothing_of_the_others() -> None:
    one, three = Plan(shipped(1)).jobs, Plan(shipped(3)).jobs
    assert {name: job.identity for name, job in one.items()}.items() <= {
        n: j.identity for n, j in three.items()
    }.items()


def test_a_mistake_in_a_training_is_found_before_anything_runs() -> None:
    recipe = load_reproduction(RECIPE, ["arms.sft.changes.lerning_rate=1"])
    with pytest.raises(SettingError, match="did you mean learning_rate"):
        Plan(recipe)
