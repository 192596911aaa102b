"""From rows and videos to examples: what is shown equals what inference looks at; what cannot be used is said."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.training.toy import FAMILIES, SETTINGS, make_data, make_model, maker_for
from tests.video.videos import Recipe as VideoRecipe
from videoreasoner.engines.local import LocalEngine
from videoreasoner.errors import MissingExtraError, RowError
from videoreasoner.models.checkpoint import Checkpoint, load_checkpoint
from videoreasoner.models.clip_features import ClipFeatures
from videoreasoner.models.positions import ClipTokens
from videoreasoner.rows import Row, read_rows
from videoreasoner.tasks import Task, parse_event
from videoreasoner.training.data.cache import ArrayCache
from videoreasoner.training.data.dataset import ExampleBatch, RowDataset
from videoreasoner.training.data.examples import Example, ExampleMaker, longest_event
from videoreasoner.training.data.frames import ClipReader
from videoreasoner.training.data.sampler import RowSampler
from videoreasoner.training.data.sources import Skipped, read_source, read_sources
from videoreasoner.training.recipe import Source
from videoreasoner.utils.stopwatch import Stopwatch
from videoreasoner.video.pyav.file import VideoFile
from videoreasoner.video.sampling import uniform_plan

TASKS = {task: frozenset({task}) for task in Task}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"), videos=3)


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return load_checkpoint(make_model(tmp_path_factory.mktemp("model") / "m", request.param), "cpu")


def example(made: ExampleMaker, data: Path, **changes: Any) -> Example:
    row = next(read_rows(data))
    row = Row.model_validate({**row.model_dump(), **changes})
    return made.example("rows", row, row.video_path(data.parent))


def clip_of(example: Example) -> ClipTokens:
    [clip] = [part for part in example.prompt.trunk.parts if isinstance(part, ClipTokens)]
    return clip


def row_id(item: Example | Skipped) -> str:
    return item.row if isinstance(item, Skipped) else item.row.id


def test_training_sees_what_inference_sees(checkpoint: Checkpoint, data: Path) -> None:
    """Same frames, same patches, same positions, same words: down to the features of the vision tower."""
    made = example(maker_for(checkpoint), data)
    patches, row = made.patches, made.row
    with VideoFile(row.video_path(data.parent)) as video_file:
        features = ClipFeatures(
            checkpoint.model, video_file, checkpoint.patches, checkpoint.tokens_per_second, Stopwatch()
        )  # fmt: skip
        clip = features.encode(uniform_plan(video_file.duration_s, checkpoint.settings.sampling))
        assert made.duration_s == video_file.duration_s
        session = LocalEngine(checkpoint).open(video_file)
        plan = uniform_plan(video_file.duration_s, checkpoint.settings.sampling)
        reply = session.complete(plan, row.question, row.options or (), [Task.ANSWER])
    assert clip_of(made) == clip.tokens
    with torch.inference_mode():
        seen = checkpoint.model.model.get_video_features(
            patches.pixel_values, torch.tensor([patches.grid]), return_dict=True
        ).pooler_output
    assert torch.equal(torch.cat(list(seen)), clip.features)
    # The prompt is the one that inference feeds, task prefix included.
    assert reply.tokens_in == len(made.prompt) + len(checkpoint.encoder.prefix(Task.ANSWER))


def test_the_cache_changes_nothing_and_saves_decoding(
    checkpoint: Checkpoint, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = example(maker_for(checkpoint), data)
    cache = ArrayCache(tmp_path / "cache", 10**8)
    filled = example(maker_for(checkpoint, cache=cache), data)
    monkeypatch.setattr("videoreasoner.training.data.frames.GuardedVideoFile", None)
    kept = example(maker_for(checkpoint, cache=cache), data)
    for other in (filled, kept):
        assert torch.equal(other.patches.pixel_values, fresh.patches.pixel_values)
        assert clip_of(other) == clip_of(fresh)
        assert other.duration_s == fresh.duration_s
    # Another video under the same name is another video.
    path = next(read_rows(data)).video_path(data.parent)
    os.utime(path)
    with pytest.raises(TypeError):
        example(maker_for(checkpoint, cache=cache), data)


def test_frames_are_left_out_and_visual_tokens_never_cut(checkpoint: Checkpoint, data: Path) -> None:
    whole = example(maker_for(checkpoint), data)
    assert not whole.is_reduced
    clip = clip_of(whole)
    a_pair = clip.height * clip.width
    limit = whole.tokens - a_pair - 1
    made = example(maker_for(checkpoint, max_length=limit), data)
    assert made.is_reduced
    assert made.tokens <= limit
    pairs = len(clip.temporal) - 2
    assert len(clip_of(made)) == pairs * a_pair
    assert made.patches.grid[0] == pairs
    with pytest.raises(RowError, match="less than a pair"):
        example(maker_for(checkpoint, max_length=limit - pairs * a_pair), data)


def test_events_are_limited_to_the_video(checkpoint: Checkpoint, data: Path) -> None:
    made = example(maker_for(checkpoint), data, event=[3.0, 9.0])
    assert made.is_limited
    text = checkpoint.encoder.decode(made.targets[Task.EVENT])
    event = parse_event(text, 4.0)
    assert event is not None
    assert (event.start_s, event.end_s) == (3.0, 4.0)
    assert not example(maker_for(checkpoint), data, event=[1.0, 4.01]).is_limited
    with pytest.raises(RowError, match="no length inside the video"):
        example(maker_for(checkpoint), data, event=[5.0, 9.0])
    row = Row.model_validate({**made.row.model_dump(), "event": [[0, 1], [2, 3.5]]})
    longest = longest_event(row, 4.0)
    assert longest is not None
    assert longest.start_s == 2.0


def test_a_target_over_the_limit_is_refused(checkpoint: Checkpoint, data: Path) -> None:
    with pytest.raises(RowError, match=r"key_elements target has \d+ tokens, and max_target_length is 40"):
        example(maker_for(checkpoint, max_target_length=40), data, key_elements=["one thing after another"] * 40)


def test_a_row_that_cannot_be_used_is_told_and_not_replaced(checkpoint: Checkpoint, data: Path) -> None:
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


def test_rows_that_no_video_is_needed_to_refuse(data: Path, tmp_path: Path) -> None:
    good = json.loads(data.read_text().splitlines()[0])
    lines = [
        good,
        {**good, "id": "reversed", "event": [3, 1]},
        {**good, "id": "away", "video": "away.mp4"},
        {"id": "idle", "video": good["video"], "question": "What?"},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)) + "\nnot json\n")
    rows = read_source(Source(path=str(path)), TASKS, str(data.parent))
    # A video may come or go: its row keeps its place in the stream.
    assert [row.id for row in rows.rows] == [good["id"], "away"]
    [absent] = rows.absent
    assert (absent.row, "check video_root" in absent.reason) == ("away", True)
    reasons = {item.row: item.reason for item in rows.skipped}
    assert reasons.keys() == {"line 2", "idle", "line 5"}
    assert "swap the two" in reasons["line 2"]
    assert "supports none of the tasks" in reasons["idle"]
    other = tmp_path / "other.jsonl"
    other.write_text(json.dumps({**good, "key_elements": None}))
    with pytest.raises(RowError, match=r"other\.jsonl: no row supports the task key_elements"):
        read_sources([Source(path=str(other))], TASKS, str(data.parent))
    with pytest.raises(RowError, match=r"none of the 1 rows can be used; the first: .*no such video"):
        read_sources([Source(path=str(other))], TASKS, str(tmp_path))


def test_a_file_that_is_listed_again_has_a_name_of_its_own(data: Path, tmp_path: Path) -> None:
    listed = [Source(path=str(data)), Source(path=str(data), video_root=str(tmp_path))]
    here, elsewhere = read_sources(listed, TASKS, str(data.parent))
    assert (here.name, elsewhere.name) == (str(data), f"{data}#2")
    assert (len(here.absent), len(elsewhere.absent)) == (0, len(elsewhere))
    assert {item.source for item in elsewhere.absent} == {elsewhere.name}


def test_a_data_set_without_its_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(MissingExtraError, match=r"org/name:train: needs `datasets`"):
        read_source(Source(dataset="org/name"), TASKS, None)


def test_keyframes_are_taken_where_the_settings_say_so(checkpoint: Checkpoint, data: Path) -> None:
    reader = ClipReader(SETTINGS.changed(sparse_seek="keyframe"), checkpoint.patches)
    path = next(read_rows(data)).video_path(data.parent)
    with VideoFile(path) as video_file, reader.open(path) as seen:
        expected = uniform_plan(video_file.duration_s, SETTINGS.sampling, video_file.key_times_s)
        clip = seen.read(4096, 0)
        assert np.array_equal(clip.times_s, video_file.frames_at(expected.times_s).times_s)


def test_rows_of_one_id_are_told_apart(data: Path, tmp_path: Path) -> None:
    lines = [line for line in data.read_text().splitlines() if json.loads(line).get("event")]
    same = [json.dumps({**json.loads(line), "id": "x"}) for line in lines]
    (tmp_path / "rows.jsonl").write_text("\n".join(same) + "\n")
    source = Source(path=str(tmp_path / "rows.jsonl"), video_root=str(data.parent))
    rows = read_source(source, {Task.EVENT: frozenset({Task.EVENT})}, None)
    assert [row.id for row in rows.rows] == ["x", *(f"x#{n}" for n in range(2, len(lines) + 1))]


def test_sources_of_other_files_have_other_names() -> None:
    names = {Source(dataset="json", data_files=file, split=split).name for file in "ab" for split in ("train", "test")}
    assert names == {"json:a:train", "json:a:test", "json:b:train", "json:b:test"}
    assert Source(dataset="some/rows").name == "some/rows:train"
