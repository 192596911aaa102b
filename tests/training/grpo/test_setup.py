"""From a GRPO recipe to a trainer: rewards, reference, and recipes that are refused."""

from __future__ import annotations

import json
import linecache

import pytest

from tests.models.tiny_models import random_qwen2_vl, tokenizer
from tests.training.grpo.runs import metrics, recipe, train
from videoreasoner.errors import RowError, SettingError, TrainingError
from videoreasoner.models.checkpoint import save_checkpoint
from videoreasoner.rows import Row, read_rows, write_rows
from videoreasoner.settings import Settings
from videoreasoner.training.grpo.rewards import load_rewards
from videoreasoner.training.grpo.setup import prepare_grpo, reward_sources, train_grpo
from videoreasoner.video.patches import PatchSettings


def test_a_checkpoint_that_leaves_nothing_to_do_is_refused(videos, tmp_path) -> None:
    train_grpo(recipe(videos, tmp_path / "before", max_steps=3, save_steps=3))
    given = {"resume_from_checkpoint": str(tmp_path / "before" / "checkpoint-3")}
    with pytest.raises(TrainingError, match=r"stands at step 3, and this run ends at step 2"):
        prepare_grpo(recipe(videos, tmp_path / "a", max_steps=2, **given))
    with pytest.raises(TrainingError, match=r"checkpoint-3: is between two of the 2 updates"):
        prepare_grpo(recipe(videos, tmp_path / "b", max_steps=6, num_iterations=2, **given))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"rewards": {"accuracy": 1.0}, "tasks": ["event"]},
            SettingError,
            "no reward of the recipe (accuracy) concerns",
        ),
        ({"rewards": {"acuracy": 1.0}}, SettingError, "'acuracy' is none of"),
        ({"max_length": 40}, TrainingError, "raise max_length or lower settings.max_pixels"),
    ],
    ids=["no task", "unknown", "trunk too long"],
)
def test_runs_that_cannot_start(changes, error, message, videos, tmp_path) -> None:
    with pytest.raises(error) as caught:
        train_grpo(recipe(videos, tmp_path / "out", **changes))
    assert message in str(caught.value)
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_rows_that_a_task_cannot_be_judged_by_are_not_asked_it(videos, tmp_path) -> None:
    rows = list(read_rows(videos / "plain.jsonl"))
    plain = [Row.model_validate({**row.model_dump(), "event": None}) for row in rows]
    path = tmp_path / "rows.jsonl"
    write_rows(path, plain)
    with pytest.raises(RowError, match="no row supports the task event"):
        train_grpo(recipe(videos, tmp_path / "out", data=[{"path": str(path)}]))
    write_rows(path, [*plain[:-1], rows[-1]])
    train(
        videos, tmp_path / "out", data=[{"path": str(path)}], max_steps=1, save_steps=1, per_device_train_batch_size=8
    )
    [line] = metrics(tmp_path / "out")
    assert line["rows"] == 8
    kept = [json.loads(text) for text in (tmp_path / "out" / "rollouts.jsonl").read_text().splitlines()]
    assert {record["row"] for record in kept if record["task"] == "event"} <= {rows[-1].id}


def test_a_reference_of_another_vocabulary_is_refused(videos, tmp_path) -> None:
    model = random_qwen2_vl()
    patches = PatchSettings(min_pixels=1024, max_pixels=1024)
    save_checkpoint(tmp_path / "other", model, tokenizer(), Settings(), patches)
    with pytest.raises(SettingError, match=r"ref_model .*other: its vocabulary is not the model's"):
        train(videos, tmp_path / "out", ref_model=str(tmp_path / "other"))


def test_a_reward_of_a_file_with_a_shipped_name_is_part_of_the_run(tmp_path) -> None:
    digests = []
    for number in range(2):
        path = tmp_path / "mine.py"
        path.write_text(f"def accuracy(completions, **_):\n    return [{number}.0 for _ in completions]\n")
        linecache.clearcache()
        digests.append(reward_sources(load_rewards({f"{path}:accuracy": 1.0, "event_iou": 1.0})))
    assert [list(sources) for sources in digests] == [["accuracy"]] * 2
    assert digests[0] != digests[1]
