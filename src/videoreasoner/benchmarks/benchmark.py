"""What the runner needs to know about a benchmark. Nothing here knows a particular one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from videoreasoner.rows import Row


class Benchmark(Protocol):
    """Questions with their truth, and how an answer to one of them is scored.

    Attributes:
        name: of the benchmark, as it stands in summaries.
        rows: the questions; their ids differ.
        video_root: folder that relative videos lie in.
        data_hash: hexadecimal hash of the rows and the videos; two runs are compared only where it is the same.
    """

    @property
    def name(self) -> str: ...
    @property
    def rows(self) -> Sequence[Row]: ...
    @property
    def video_root(self) -> Path: ...
    @property
    def data_hash(self) -> str: ...

    def scores(self, row: Row, answer: Mapping[str, Any]) -> dict[str, float]:
        """Metric -> value of one answer (`Answer.to_dict()`).

        An answer that cannot be parsed scores 0; a metric that does not apply to the mode or the row is left out.
        """
        ...

    def groups(self, row: Row) -> dict[str, str]:
        """Key -> value: metrics are also given for all rows with one value, such as `{"split": "plain"}`."""
        ...
