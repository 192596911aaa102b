from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from experiments.reproduction.results import _made, dump, read_results, thin_out, union_length
from tests.experiments.reproduction.sample_results import make_results, shipped_recipe
from videoreasoner.errors import EvaluationError


def test_a_thinned_curve_has_the_means_of_the_whole_one() -> None:
    lines = [{"step": step, "reward": step / 2, "rows": 16} for step in range(1, 301)]
    curves = thin_out(lines, points=100)
    assert curves["step"] == [float(step) for step in range(3, 301, 3)]
    assert curves["values"] == {"reward": [(step - 1) / 2 for step in range(3, 301, 3)]}


def test_a_short_curve_stays_as_it_is_and_keeps_its_gaps() -> None:
    curves = thin_out([{"step": 0, "parse_rate": 0.25}, {"step": 1, "loss": 3.0, "loss/event": 2.0}])
    values = {"parse_rate": [0.25, None], "loss": [None, 3.0], "loss/event": [None, 2.0]}
    assert curves == {"step": [0.0, 1.0], "values": values}
    assert thin_out([]) == {"step": [], "values": {}}


def test_time_of_simultaneous_jobs_is_counted_once() -> None:
    assert union_length([]) == 0.0
    assert union_length([(0.0, 4.0), (1.0, 2.0), (3.0, 5.0), (10.0, 11.0)]) == 6.0


def test_each_machine_and_version_is_kept_once() -> None:
    machine = {"system": "Linux", "cores": 2, "gpu": None, "load": 0.1}
    summaries = [{"machine": machine, "versions": {"torch": number}} for number in ("2.13", "2.14", "2.13")]
    made = _made({"eval-base": {"starts": 1, "began": 10.0, "ended": 15.0, "cpu_seconds": 4.0}}, summaries)
    assert made["machines"] == [{"system": "Linux", "cores": 2, "gpu": None}]
    assert made["versions"] == [{"torch": "2.13"}, {"torch": "2.14"}]
    assert made["jobs"] == [{"name": "eval-base", "seconds": 5.0, "cpu_seconds": 4.0, "starts": 1}]


def test_files_are_json_with_a_line_for_each_list() -> None:
    content = {"a": [1, 2.5, None], "b": {"c": [{"d": ["x [ y", "z"]}, {"d": []}], "e": 1}, "f": [], "g": {"h": "{ }"}}
    text = dump(content)
    assert json.loads(text) == content
    assert '"a": [1,2.5,null],' in text.splitlines()[1]


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    recipe = shipped_recipe()
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


@pytest.mark.parametrize("missing", ["recipe", "questions", "made", "variants/sft"])
def test_a_missing_file_is_named(tmp_path: Path, missing: str) -> None:
    make_results(tmp_path, shipped_recipe(), videos=2)
    (tmp_path / f"{missing}.json").unlink()
    with pytest.raises(EvaluationError, match=f"{missing}.json"):
        read_results(tmp_path)
