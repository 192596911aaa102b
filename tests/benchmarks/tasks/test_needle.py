from __future__ import annotations

from pathlib import Path

import pytest

from videoreasoner.benchmarks.tasks.needle import DETAILS_S, LENGTHS_S, Grid, cell_name, needle_benchmark, sweep
from videoreasoner.errors import SettingError
from videoreasoner.utils.intervals import estimate


def test_the_grid_leaves_out_details_that_are_not_brief() -> None:
    grid = Grid((10.0, 60.0), (0.2, 1.0))
    assert grid.cells == [(10.0, 0.2), (60.0, 0.2), (60.0, 1.0)]
    assert (10.0, 0.2) in Grid(LENGTHS_S, DETAILS_S).cells
    with pytest.raises(SettingError, match="longer --length"):
        Grid((10.0,), (5.0,))
    with pytest.raises(SettingError, match="--length"):
        Grid((60.0, 10.0), (0.2,))
    with pytest.raises(SettingError, match="--detail"):
        Grid((60.0,), (0.0, 0.2))


def test_a_needle_row_differs_between_cells_in_times_alone(tmp_path: Path) -> None:
    grid = Grid((10.0, 20.0), (0.2, 0.4))
    benchmark = needle_benchmark(tmp_path, grid, 2, size=16)
    assert len({row.id for row in benchmark.rows}) == len(benchmark.rows) == 2 * len(grid.cells)
    by_cell = {cell_name(*cell): [] for cell in grid.cells}
    for row in benchmark.rows:
        assert (benchmark.video_root / row.video).is_file()
        by_cell[benchmark.groups(row)["cell"]].append(row)
    for (length_s, detail_s), rows in zip(grid.cells, by_cell.values(), strict=True):
        for row, first in zip(rows, by_cell["10s-0.2s"], strict=True):
            start, end = (row.model_extra or {})["visible_s"]
            assert end - start == pytest.approx(detail_s, abs=2e-3)
            assert row.duration == length_s
            assert (row.question, row.options, row.answer) == (first.question, first.options, first.answer)


def test_a_sweep_has_each_estimate_in_its_place() -> None:
    grid = Grid((10.0, 60.0), (0.2, 1.0))
    cells = {cell_name(*cell): {"answer": estimate([number / 10])} for number, cell in enumerate(grid.cells)}
    metrics = {"all": {"all": {"answer": estimate([0.0])}}, "cell": cells}
    found = [[e and e.mean for e in line] for line in sweep(metrics, grid, "answer")]
    assert found == [[0.0, 0.1], [None, 0.2]]
    alone = Grid((10.0,), (0.2,))
    assert sweep({"all": {"all": {"answer": estimate([1.0])}}}, alone, "answer") == [[estimate([1.0])]]
