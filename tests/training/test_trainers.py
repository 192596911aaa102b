"""Training from Python: the example of the docs, rewards that are functions, and rows that are objects."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.paths import ROOT
from videoreasoner import training
from videoreasoner.errors import RowError, SettingError, TrainingError
from videoreasoner.synthetic.videos import VideoSettings, make_videos
from videoreasoner.training import GrpoTrainer

SMALL: dict[str, Any] = {
    "max_steps": 1, "num_generations": 2, "max_completion_length": 14, "settings": {"frame_budget": 4},
    "dataloader_num_workers": 0, "tasks": ["answer"],
}  # fmt: skip


@pytest.fixture
def videos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    make_videos(tmp_path, 2, VideoSettings(duration_s=20.0, fps=8.0, size=32), splits=("plain",))
    (tmp_path / "plain.jsonl").rename(tmp_path / "rows.jsonl")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def odd(completions: list[str], **_: Any) -> list[float]:
    return [float(len(text) % 2) for text in completions]


def test_the_example_of_the_page_runs(videos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "training.md").read_text()
    [code] = re.findall(r"## From Python\n\n```python\n(.*?)```", page, flags=re.S)
    Path("example.py").write_text(code)
    exec(compile(code, "example.py", "exec"), {"__name__": "example"})
    assert capsys.readouterr().out.endswith("out/grpo\n")
    assert (videos / "out" / "grpo" / "model.safetensors").is_file()


def test_rows_and_rewards_are_part_of_the_run(videos: Path) -> None:
    rows = [json.loads(line) for line in Path("rows.jsonl").read_text().splitlines()]
    first = GrpoTrainer("tiny", [odd, "accuracy"], rows, "out", **SMALL)
    assert first.recipe.rewards == {"odd": 1.0, "accuracy": 1.0}
    folder = first.train()
    run = json.loads((folder / "run.json").read_text())
    assert set(run["rewards"]) == {"odd"}
    # The same function may be used again; another of its name, or other rows, are another run.
    assert GrpoTrainer("tiny", [odd, "accuracy"], rows, "out", **SMALL).train() == folder

    def other(completions: list[str], **_: Any) -> list[float]:
        return [0.0 for _ in completions]

    other.__name__ = "odd"
    with pytest.raises(TrainingError, match=r"differs in rewards\.odd"):
        GrpoTrainer("tiny", [other, "accuracy"], rows, "out", **SMALL).train()
    with pytest.raises(TrainingError, match="differs in data"):
        GrpoTrainer("tiny", [odd, "accuracy"], rows[:1], "out", **SMALL).train()


def test_one_reward_needs_no_list() -> None:
    assert GrpoTrainer("tiny", "accuracy", "rows.jsonl", "out").recipe.rewards == {"accuracy": 1.0}
    assert GrpoTrainer("tiny", odd, "rows.jsonl", "out").recipe.rewards == {"odd": 1.0}


def test_mistakes_are_named() -> None:
    with pytest.raises(SettingError, match="two have the same name"):
        GrpoTrainer("tiny", [odd, "odd"], "rows.jsonl", "out")
    with pytest.raises(SettingError, match="did you mean max_steps"):
        GrpoTrainer("tiny", [odd], "rows.jsonl", "out", max_stepz=1)
    with pytest.raises(RowError, match="there are none"):
        GrpoTrainer("tiny", [odd], [], "out")
    with pytest.raises(RowError, match="rows: number 0: "):
        GrpoTrainer("tiny", [odd], [{"id": "a"}], "out")


@pytest.mark.parametrize("name", ["accuracy", "key_element_retrieval"])
def test_a_function_does_not_take_the_place_of_a_shipped_reward(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(odd, "__name__", name)
    with pytest.raises(SettingError, match=f"{name} is the name of a shipped reward; rename the function"):
        GrpoTrainer("tiny", [odd], "rows.jsonl", "out", tasks=["answer"]).train()


def test_the_public_names_exist() -> None:
    for name in training.__all__:
        assert getattr(training, name).__name__ == name
        assert name in dir(training)
