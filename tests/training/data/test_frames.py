"""The frames that training shows of a video: cached, fewer when the limit says so, at true times."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.training.data.made import clip_of, example
from tests.training.toy import SETTINGS, maker_for
from videoreasoner.errors import RowError
from videoreasoner.models.checkpoint import Checkpoint
from videoreasoner.rows import read_rows
from videoreasoner.training.data.cache import ArrayCache
from videoreasoner.training.data.frames import ClipReader
from videoreasoner.video.pyav.file import VideoFile
from videoreasoner.video.sampling import uniform_plan


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


def test_keyframes_are_taken_where_the_settings_say_so(checkpoint: Checkpoint, data: Path) -> None:
    reader = ClipReader(SETTINGS.changed(sparse_seek="keyframe"), checkpoint.patches)
    path = next(read_rows(data)).video_path(data.parent)
    with VideoFile(path) as video_file, reader.open(path) as seen:
        expected = uniform_plan(video_file.duration_s, SETTINGS.sampling, video_file.key_times_s)
        clip = seen.read(4096, 0)
        assert np.array_equal(clip.times_s, video_file.frames_at(expected.times_s).times_s)
