"""The row stream: a row that cannot be used is counted, and never replaced."""

from __future__ import annotations

import json
from pathlib import Path

from tests.training.data.made import TASKS, row_id
from tests.training.toy import maker_for
from tests.video.videos import Recipe as VideoRecipe
from videoreasoner.models.checkpoint import Checkpoint
from videoreasoner.training.data.dataset import ExampleBatch, RowDataset
from videoreasoner.training.data.sampler import RowSampler
from videoreasoner.training.data.sources import Skipped, read_sources
from videoreasoner.training.recipe import Source


def test_a_row_that_cannot_be_used_is_reported_and_not_replaced(checkpoint: Checkpoint, data: Path) -> None:
    broken = data.parent / "broken.mp4"
    broken.write_bytes(b"no video")
    VideoRecipe("thin.mp4", count=100, size=(4, 1024)).make(data.parent)
    rows = [json.loads(data.read_text().splitlines()[0])]
    rows += [{**rows[0], "id": name, "video": f"{name}.mp4"} for name in ("broken", "thin")]
    path = data.parent / "mixed.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    sources = read_sources([Source(path=str(path))], TASKS, str(data.parent))
    made = maker_for(checkpoint)
    dataset = RowDataset(sources, made, RowSampler([3], [1.0], 0), 0, 6)
    items = [dataset[position] for position in range(6)]
    skipped = [item for item in items if isinstance(item, Skipped)]
    assert {item.row for item in skipped} == {"broken", "thin"}
    assert all("broken.mp4" in item.reason or "long as wide" in item.reason for item in skipped)
    batch = ExampleBatch.collate(items)
    assert len(batch.examples) == len(batch.rows) == 2
    assert batch.skipped == skipped
    # A resumed run begins behind the rows of its earlier steps.
    resumed = RowDataset(sources, made, RowSampler([3], [1.0], 0), 2, 6)
    assert [row_id(resumed[i]) for i in range(4)] == [row_id(item) for item in items[2:]]
