from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from experiments.tiny.stages import BASE_STAGES, TASK_STAGES, Stage
from videoreasoner.models.checkpoint import find_folder


@pytest.mark.parametrize(("name", "stages"), [("tiny-base", BASE_STAGES), ("tiny", (*BASE_STAGES, *TASK_STAGES))])
def test_the_stages_are_those_of_the_shipped_checkpoints(name: str, stages: tuple[Stage, ...]) -> None:
    shipped = json.loads((find_folder(name) / "videoreasoner.json").read_text())["training"]["stages"]
    # The checkpoints keep the words that were in use when they were made.
    renamed = {"lessons": "examples", "films_a_step": "videos_per_step"}
    assert len(shipped) == len(stages)
    for written, stage in zip(shipped, stages, strict=True):
        found = {renamed.get(key, key): value for key, value in written.items() if key != "name"}
        assert found.items() <= json.loads(json.dumps(asdict(stage))).items()


def test_no_two_stages_share_videos() -> None:
    seeds = [stage.seed for stage in (*BASE_STAGES, *TASK_STAGES)]
    assert len(set(seeds)) == len(seeds)
