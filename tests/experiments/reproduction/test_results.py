from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from experiments.reproduction.jobs import Record
from experiments.reproduction.results import _compact, _made, covered, read_results, thinned
from tests.experiments.reproduction.made import make_results, shipped
from videoreasoner.errors import EvaluationError


def test_a_thinned_curve_has_the_means_of_the_whole_one() -> None:
    lines = [{"step": step, "reward": step / 2, "rows": 16} for step in range(1, 301)]
    steps, values = thinned(lines, points=100)
    assert steps == [float(step) for step in range(3, 301, 3)]
    assert list(values) == ["reward"]
    assert values["reward"] == [(step - 1) / 2 for step in range(3, 301, 3)]


def test_a_short_curve_is_left_as_it_is_and_holes_stay_holes() -> None:
    steps, values = thinned([{"step": 0, "parse_rate": 0.25}, {"step": 1, "loss": 3.0, "loss/event": 2.0}])
    assert steps == [0.0, 1.0]
    assert values == {"parse_rate": [0.25, None], "loss": [None, 3.0], "loss/event": [None, 2.0]}
    assert thinned([]) == ([], {})


def test_time_that_jobs_share_is_counted_once() -> None:
    assert covered([]) == 0.0
    assert covered([(0.0, 4.0), (1.0, 2.0), (3.0, 5.0), (10.0, 11.0)]) == 6.0


def test_each_machine_and_version_is_kept_once() -> None:
    machine = {"system": "Linux", "cores": 2, "gpu": None, "load": 0.1}
    summaries = [{"machine": machine, "versions": {"torch": number}} for number in ("2.13", "2.14", "2.13")]
    made = _made({"eval-base": Record("a", ["run"], 1, 10.0, 15.0)}, summaries)
    assert made["machines"] == [{"system": "Linux", "cores": 2, "gpu": None}]
    assert made["versions"] == [{"torch": "2.13"}, {"torch": "2.14"}]


def test_files_are_json_with_a_line_for_each_list() -> None:
    content = {"a": [1, 2.5, None], "b": {"c": [{"d": ["x"]}, {"d": []}], "e": 1}, "f": []}
    text = _compact(content)
    assert json.loads(text) == content
    assert '"a": [1,2.5,null],' in text.splitlines()[1]


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    recipe = shipped()
    make_results(tmp_path, recipe, videos=10)
    results = read_results(tmp_path)
    assert results.recipe == recipe
    plain = results.values("grpo-both", "focus", "answer", "plain")
    everything = results.values("grpo-both", "focus", "answer")
    assert plain is not None
    assert everything is not None
    assert plain.shape == (3, 10)
    assert np.array_equal(everything[:, ::2], plain)
    assert results.values("grpo-both", "direct", "event_iou") is None
    base = results.values("base", "focus", "event_iou")
    assert base is not None
    assert base.shape == (1, 20)


@pytest.mark.parametrize("missing", ["recipe", "questions", "made", "arms/sft"])
def test_a_missing_file_is_named(tmp_path: Path, missing: str) -> None:
    make_results(tmp_path, shipped(), videos=2)
    (tmp_path / f"{missing}.json").unlink()
    with pytest.raises(EvaluationError, match=f"{missing}.json"):
        read_results(tmp_path)
