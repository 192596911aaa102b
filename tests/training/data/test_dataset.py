"""From rows and videos to examples: what is shown equals what inference looks at; what cannot be used is said."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.training.toy import FAMILIES, SETTINGS, make_data, make_model
from tests.video.videos import Recipe as VideoRecipe
from videoreasoner.engines.local import LocalEngine
from videoreasoner.errors import MissingExtraError, RowError
from videoreasoner.models.checkpoint import Checkpoint, load_checkpoint
from videoreasoner.models.clip_features import ClipFeatures
from videoreasoner.rows import Row, read_rows
from videoreasoner.tasks import Task, parse_event
from videoreasoner.training.data.cache import ArrayCache
from videoreasoner.training.data.dataset import Collator, Example, Lessons, RowDataset
from videoreasoner.training.data.examples import longest_event
from videoreasoner.training.data.frames import ClipReader
from videoreasoner.training.data.sampler import RowOrder
from videoreasoner.training.data.sources import Skipped, read_source, read_sources
from videoreasoner.training.recipe import Source
from videoreasoner.utils.stopwatch import Stopwatch
from videoreasoner.video.patches import patchify
from videoreasoner.video.pyav.file import VideoFile
from videoreasoner.video.sampling import uniform_plan

TASKS = list(Task)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"), videos=3)


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return load_checkpoint(make_model(tmp_path_factory.mktemp("model") / "m", request.param), "cpu")


def lessons(checkpoint: Checkpoint, cache: ArrayCache | None = None, max_length: int = 4096, **more: Any) -> Lessons:
    reader = ClipReader(checkpoint.settings, checkpoint.patches, cache=cache)
    values = {"tasks": TASKS, "max_target_length": 256, **more}
    tokens_per_second = checkpoint.tokens_per_second
    return Lessons(checkpoint.encoder, reader, max_length=max_length, tokens_per_second=tokens_per_second, **values)


def example(made: Lessons, data: Path, **changes: Any) -> Example:
    row = next(read_rows(data))
    row = Row.model_validate({**row.model_dump(), **changes})
    return made.example("rows", row, row.video_path(data.parent))


def test_training_sees_what_inference_sees(checkpoint: Checkpoint, data: Path) -> None:
    """Same frames, same patches, same positions, same words: down to the features of the vision tower."""
    made = example(lessons(checkpoint), data)
    patches = patchify(made.clip.frames, checkpoint.patches)
    row = made.row
    with VideoFile(row.video_path(data.parent)) as video_file:
        features = ClipFeatures(
            checkpoint.model, video_file, checkpoint.patches, checkpoint.tokens_per_second, Stopwatch()
        )  # fmt: skip
        clip = features.encode(uniform_plan(video_file.duration_s, checkpoint.settings.sampling))
        assert made.clip.facts.duration_s == video_file.duration_s
        session = LocalEngine(checkpoint).open(video_file)
        plan = uniform_plan(video_file.duration_s, checkpoint.settings.sampling)
        reply = session.complete(plan, row.question, row.options or (), [Task.ANSWER])
    assert made.tokens == clip.tokens
    assert tuple(made.clip.times_s.tolist()) == clip.frame_times_s
    with torch.inference_mode():
        seen = checkpoint.model.model.get_video_features(
            patches.pixel_values, torch.tensor([patches.grid]), return_dict=True
        ).pooler_output
    assert torch.equal(torch.cat(list(seen)), clip.features)
    # The tree holds the prompt that inference feeds, task prefix included.
    tree = made.lesson.trees[0].tree
    prompt = len(tree.trunk) + len(tree.tokens[0]) + len(checkpoint.encoder.prefix(Task.ANSWER))
    assert reply.tokens_in == prompt


def test_the_cache_changes_nothing_and_saves_decoding(
    checkpoint: Checkpoint, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = example(lessons(checkpoint), data)
    cache = ArrayCache(tmp_path / "cache", 10**8)
    filled = example(lessons(checkpoint, cache), data)
    monkeypatch.setattr("videoreasoner.training.data.frames.GuardedVideoFile", None)
    kept = example(lessons(checkpoint, cache), data)
    for other in (filled, kept):
        assert torch.equal(other.clip.frames, fresh.clip.frames)
        assert np.array_equal(other.clip.times_s, fresh.clip.times_s)
        assert other.clip.facts == fresh.clip.facts
    # Another video under the same name is another video.
    path = next(read_rows(data)).video_path(data.parent)
    os.utime(path)
    with pytest.raises(TypeError):
        example(lessons(checkpoint, cache), data)


def test_frames_are_left_out_and_visual_tokens_never_cut(checkpoint: Checkpoint, data: Path) -> None:
    whole = example(lessons(checkpoint), data)
    assert not whole.clip.is_reduced
    a_pair = whole.tokens.height * whole.tokens.width
    limit = len(whole.lesson.trees[0]) - a_pair - 1
    made = example(lessons(checkpoint, max_length=limit), data)
    assert made.clip.is_reduced
    assert len(made.lesson.trees[0]) <= limit
    pairs = len(whole.clip.times_s) // 2 - 2
    assert len(made.tokens) == pairs * a_pair
    assert len(made.clip.frames) == 2 * pairs
    # The fewer frames still span the whole video.
    assert made.clip.times_s[-1] > 0.8 * made.clip.facts.duration_s
    with pytest.raises(RowError, match="less than a pair"):
        example(lessons(checkpoint, max_length=limit - pairs * a_pair), data)


def test_events_are_clipped_to_the_video(checkpoint: Checkpoint, data: Path) -> None:
    made = example(lessons(checkpoint), data, event=[3.0, 9.0])
    assert made.is_clipped
    target = next(target for target in made.lesson.targets if target.task is Task.EVENT)
    text = checkpoint.encoder.decode(made.lesson.trees[0].tree.tokens[target.node])
    event = parse_event(text, 4.0)
    assert event is not None
    assert (event.start_s, event.end_s) == (3.0, 4.0)
    assert not example(lessons(checkpoint), data, event=[1.0, 4.01]).is_clipped
    with pytest.raises(RowError, match="no length inside the video"):
        example(lessons(checkpoint), data, event=[5.0, 9.0])
    row = Row.model_validate({**made.row.model_dump(), "event": [[0, 1], [2, 3.5]]})
    longest = longest_event(row, 4.0)
    assert longest is not None
    assert longest.start_s == 2.0


def test_a_target_over_the_limit_is_refused(checkpoint: Checkpoint, data: Path) -> None:
    with pytest.raises(RowError, match=r"key_elements target has \d+ tokens, and max_target_length is 40"):
        example(lessons(checkpoint, max_target_length=40), data, key_elements=["one thing after another"] * 40)


def test_a_row_that_cannot_be_used_is_told_and_not_replaced(checkpoint: Checkpoint, data: Path) -> None:
    broken = data.parent / "broken.mp4"
    broken.write_bytes(b"no video")
    VideoRecipe("thin.mp4", count=100, size=(4, 1024)).make(data.parent)
    rows = [json.loads(data.read_text().splitlines()[0])]
    rows += [{**rows[0], "id": name, "video": f"{name}.mp4"} for name in ("broken", "thin")]
    path = data.parent / "mixed.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    sources = read_sources([Source(path=str(path))], TASKS, str(data.parent))
    made = lessons(checkpoint)
    dataset = RowDataset(sources, made, RowOrder([3], [1.0], 0), 6)
    items = [dataset[position] for position in range(6)]
    skipped = [item for item in items if isinstance(item, Skipped)]
    assert {item.row for item in skipped} == {"broken", "thin"}
    assert all("broken.mp4" in item.reason or "long as wide" in item.reason for item in skipped)
    batch = Collator(made.encoder, made.reader)(items)
    assert len(batch["input_ids"]) == len(batch["notes"].rows) == 2
    assert batch["notes"].skipped == skipped


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
    with VideoFile(path) as video_file, reader.video_file(path) as seen:
        expected = uniform_plan(video_file.duration_s, SETTINGS.sampling, video_file.key_times_s)
        clip = seen.read(4096, 0)
        assert np.array_equal(clip.times_s, video_file.frames_at(expected.times_s).times_s)


def test_rows_of_one_id_are_told_apart(data: Path, tmp_path: Path) -> None:
    lines = [line for line in data.read_text().splitlines() if json.loads(line).get("event")]
    same = [json.dumps({**json.loads(line), "id": "x"}) for line in lines]
    (tmp_path / "rows.jsonl").write_text("\n".join(same) + "\n")
    source = Source(path=str(tmp_path / "rows.jsonl"), video_root=str(data.parent))
    rows = read_source(source, [Task.EVENT], None)
    assert [row.id for row in rows.rows] == ["x", *(f"x#{n}" for n in range(2, len(lines) + 1))]


def test_sources_of_other_files_have_other_names() -> None:
    names = {Source(dataset="json", data_files=file, split=split).name for file in "ab" for split in ("train", "test")}
    assert names == {"json:a:train", "json:a:test", "json:b:train", "json:b:test"}
    assert Source(dataset="some/rows").name == "some/rows:train"
