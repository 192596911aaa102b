"""What people see of rollouts: the best and worst of a step, a table, and a warning about rewards that stay at zero."""

from __future__ import annotations

import io
from dataclasses import replace
from types import SimpleNamespace

from videoreasoner.training.grpo.recipe import GrpoRecipe
from videoreasoner.training.grpo.rollout_log import (
    RolloutLog,
    RolloutRecord,
    ZeroRewardAlarm,
    _spread,
    best_and_worst,
    completions_table,
)
from videoreasoner.training.recipe import parse_recipe
from videoreasoner.training.runtime.folder import RunFolder


def record(reward: float, number: int = 0) -> RolloutRecord:
    return RolloutRecord(
        "a", "event", "Where?", f"{number}", 3, True, reward, {"event_iou": reward, "accuracy": None}, {}, 0.5
    )


def test_the_best_and_the_worst_are_kept() -> None:
    records = [record(value, i) for i, value in enumerate([0.5, 1.0, 0.0, 0.5, 0.2])]
    assert [r.reward for r in best_and_worst(records, 1)] == [1.0, 0.0]
    assert [r.reward for r in best_and_worst(records, 2)] == [1.0, 0.5, 0.2, 0.0]
    assert [r.reward for r in best_and_worst(records, 9)] == [1.0, 0.5, 0.5, 0.2, 0.0]
    assert best_and_worst(records, 0) == []


def test_the_table_shows_what_trl_shows() -> None:
    from rich.console import Console

    console = Console(width=100, record=True, file=io.StringIO())
    console.print(completions_table([record(0.25, 7)] * 5, 12, 2))
    text = console.export_text()
    for part in ("Step 12", "Prompt", "Completion", "IoU", "accuracy", "Advantage", "Where?", "0.25", "0.50"):
        assert part in text
    assert text.count("Where?") == 2


def test_the_table_shows_every_task() -> None:
    records = [replace(record(0.5, n), task=task) for n in range(8) for task in ("event", "answer") for _ in range(4)]
    shown = _spread(records, 8)
    assert [r.task for r in shown] == ["event", "answer"] * 4
    assert {r.completion for r in shown} == {"0", "2", "4", "6"}
    assert _spread(records[:3], 8) == records[:3]
    assert _spread([], 8) == []


def test_a_log_has_room_for_the_table(capsys, tmp_path) -> None:
    content = {"model_name_or_path": "tiny", "output_dir": str(tmp_path), "data": [{"path": "rows.jsonl"}]}
    wanted = parse_recipe({**content, "log_completions": True, "num_completions_to_print": 1}, GrpoRecipe)
    log = RolloutLog(wanted, RunFolder(tmp_path), SimpleNamespace(should_save=True, logging_steps=1))
    log.write(3, [replace(record(0.25), completion="red " * 60)])
    text = capsys.readouterr().err
    assert "0.25" in text
    assert max(map(len, text.splitlines())) > 100
    assert len((tmp_path / "rollouts.jsonl").read_text().splitlines()) == 1


def test_alarm_sound_once_for_what_never_rose() -> None:
    alarm = ZeroRewardAlarm(3)
    zero = {"reward/a": 0.0, "parse_rate/event": 0.0, "reward/b": 0.0, "loss": 0.0}
    assert alarm.update(1, zero) == []
    assert alarm.update(2, {**zero, "reward/b": 0.1}) == []
    messages = alarm.update(3, zero)
    assert [message.split()[0] for message in messages] == ["reward/a", "parse_rate/event"]
    assert alarm.update(4, zero) == []
    # Metrics of several steps at once, and a run whose first steps are not known.
    assert len(ZeroRewardAlarm(3).update(4, zero)) == 3
    assert ZeroRewardAlarm(3, is_resumed=True).update(3, zero) == []
