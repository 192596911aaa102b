"""What the runner asks of a benchmark, and of what is measured on it. Nothing here knows a particular one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from videoreasoner.inference.reasoner import Reasoner
from videoreasoner.rows import Row


class Benchmark(Protocol):
    """Questions with their truth, and how an answer to one of them is scored.

    Attributes:
        name: of the benchmark, as it stands in summaries.
        rows: the questions; ids differ from each other.
        video_root: folder that relative videos lie in.
        data_hash: of the rows and the videos, in hexadecimal digits; two runs compare only where it is the same.
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

        What could not be parsed scores 0; a metric that does not apply to the mode or the row is not there.
        """
        ...

    def groups(self, row: Row) -> dict[str, str]:
        """Key -> value: metrics are also given for all rows of one value, such as `{"split": "plain"}`."""
        ...


class Candidate(Protocol):
    """What is measured. Can be pickled, because each worker process loads it for itself."""

    def identity(self) -> dict[str, Any]:
        """Plain data that changes whenever answers may; at least `model_hash` and `settings`.

        Known before anything is loaded.
        """
        ...

    def load(self) -> Reasoner: ...
