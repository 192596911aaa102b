"""A needle sweep: questions about short details in long videos, for each length of the video and of the detail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise, product
from pathlib import Path

from videoreasoner.benchmarks.results import Metrics
from videoreasoner.benchmarks.tasks.synthetic import DEFAULT_SEED, VideoBenchmark, held_out_settings, made_videos
from videoreasoner.errors import SettingError
from videoreasoner.rows import Row
from videoreasoner.synthetic.videos import VideoSettings
from videoreasoner.synthetic.world import WorldSettings
from videoreasoner.utils.hashing import hash_rows
from videoreasoner.utils.intervals import Estimate

LENGTHS_S = (10.0, 30.0, 60.0, 180.0, 600.0, 1800.0)
DETAILS_S = (0.2, 0.5, 1.0, 2.0, 5.0)
CELL = "cell"

# The longest share of a video for which a detail of the split "detail" may show.
_MOST_SHARE = 0.02


@dataclass(frozen=True)
class Grid:
    """The lengths of videos and details in a sweep.

    Attributes:
        lengths_s: of the videos, seconds, rising.
        details_s: for how long a detail shows, seconds, rising.

    Raises:
        SettingError: there are no cells, or the values do not rise.
    """

    lengths_s: tuple[float, ...] = LENGTHS_S
    details_s: tuple[float, ...] = DETAILS_S

    def __post_init__(self) -> None:
        for flag, values in (("--length", self.lengths_s), ("--detail", self.details_s)):
            if any(not a < b for a, b in pairwise((0.0, *values))):
                raise SettingError(f"{flag}: {values} must be seconds above 0, each larger than the one before")
        if not self.cells:
            raise SettingError(
                f"no detail of {self.details_s} s is brief in a video of {self.lengths_s} s; it may show for at most "
                f"{100 * _MOST_SHARE:g} % of the video, so give a longer --length or a shorter --detail"
            )

    @property
    def cells(self) -> list[tuple[float, float]]:
        """(length, detail) in seconds, without those whose detail shows for too large a share of the video."""
        pairs = product(self.lengths_s, self.details_s)
        return [(length, detail) for length, detail in pairs if detail <= _MOST_SHARE * length * (1 + 1e-9)]


def cell_name(length_s: float, detail_s: float) -> str:
    return f"{length_s:g}s-{detail_s:g}s"


def needle_benchmark(
    videos_dir: Path,
    grid: Grid,
    videos: int,
    size: int = 96,
    seed: int = DEFAULT_SEED,
    progress: Callable[[int, int], None] | None = None,
) -> VideoBenchmark:
    """One detail question about each held-out video, in every cell of the grid; grouped by cell.

    Video n has the same objects, events and questions in every cell; only its length and the detail's differ.

    Raises:
        SettingError: a value makes no sense. VideoError: a video cannot be written.
    """
    rows: list[Row] = []
    for number, (length_s, detail_s) in enumerate(grid.cells):
        settings = _settings(length_s, detail_s, size, seed)
        name = cell_name(length_s, detail_s)
        folder, made = made_videos(videos_dir, videos, settings, ["detail"])
        for _, row in made:
            changes = {"id": f"{name}-{row.id}", "video": f"{folder.name}/{row.video}", "groups": {CELL: name}}
            rows.append(row.model_copy(update=changes))
        if progress is not None:
            progress(number + 1, len(grid.cells))
    return VideoBenchmark("needle", tuple(rows), videos_dir, hash_rows(rows, videos_dir))


def _settings(length_s: float, detail_s: float, size: int, seed: int) -> VideoSettings:
    share = min(detail_s / length_s, _MOST_SHARE)
    return held_out_settings(seed, duration_s=length_s, size=size, world=WorldSettings(detail_share=share))


def sweep(metrics: Metrics, grid: Grid, metric: str) -> list[list[Estimate | None]]:
    """One metric of a needle run: a line for each detail, a column for each length; None outside the grid's cells."""
    # A run with a single cell has no groups: all questions are that cell's.
    cells = metrics.get(CELL) or {cell_name(*grid.cells[0]): metrics["all"]["all"]}
    return [
        [cells.get(cell_name(length, detail), {}).get(metric) for length in grid.lengths_s] for detail in grid.details_s
    ]
