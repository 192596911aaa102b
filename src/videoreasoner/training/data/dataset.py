"""The training data as torch sees it: positions of the row stream -> batches of examples."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch.utils.data import Dataset, get_worker_info

from videoreasoner.errors import QuestionError, RowError, VideoError
from videoreasoner.training.data.examples import Example, ExampleMaker
from videoreasoner.training.data.sampler import RowSampler
from videoreasoner.training.data.sources import Rows, Skipped
from videoreasoner.utils.processes import end_with_parent


@dataclass(frozen=True)
class ExampleBatch:
    """The examples of one micro-batch, and those of its rows that cannot be used."""

    examples: list[Example]
    skipped: list[Skipped]

    @classmethod
    def collate(cls, items: Sequence[Example | Skipped]) -> ExampleBatch:
        """What a `DataLoader` calls with the items of a batch."""
        return cls(
            [item for item in items if isinstance(item, Example)],
            [item for item in items if isinstance(item, Skipped)],
        )

    @property
    def rows(self) -> list[tuple[str, str]]:
        """Source and id of each row."""
        return [(example.source, example.row.id) for example in self.examples]


class RowDataset(Dataset[Example | Skipped]):
    """Position of the stream -> example, or the reason why the row cannot be used.

    Args:
        sources: rows with their weights.
        maker: how they become examples.
        sampler: which row comes at which position.
        first: the position that index 0 stands for, so that a resumed run can begin behind the rows of earlier steps.
        length: number of positions.
    """

    def __init__(
        self, sources: Sequence[Rows], maker: ExampleMaker, sampler: RowSampler, first: int, length: int
    ) -> None:
        self.maker, self.sampler, self.first, self.length = maker, sampler, first, length
        self.rows = [(rows, row) for rows in sources for row in rows.rows]

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Example | Skipped:
        end_with_parent()
        if get_worker_info() is not None:
            _leave_signals_to_parent()
        rows, row = self.rows[self.sampler[self.first + index]]
        try:
            return self.maker.example(rows.name, row, row.video_path(rows.video_root))
        except (RowError, QuestionError, VideoError) as error:
            return Skipped(rows.name, row.id, str(error))


def _leave_signals_to_parent() -> None:
    """A terminal sends Ctrl-C, and a launcher or a cluster SIGTERM, to all processes. The parent decides what it means.

    A worker that ended would take the parent with it. It ends at a second SIGTERM: of the sender, who wants to stop at
    once, or of torch, which sends it to a worker that does not end by itself.
    """
    if signal.getsignal(signal.SIGTERM) not in (_first_sigterm, _second_sigterm):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, _first_sigterm)


def _first_sigterm(_number: int, _frame: Any) -> None:
    signal.signal(signal.SIGTERM, _second_sigterm)


def _second_sigterm(_number: int, _frame: Any) -> None:
    os._exit(0)
