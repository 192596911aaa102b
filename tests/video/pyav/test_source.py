"""A source is the same video each time it is opened."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.video.videos import Recipe
from videoreasoner.errors import VideoError
from videoreasoner.video.pyav.source import Source


def test_a_source_may_be_opened_several_times(tmp_path: Path) -> None:
    source = Source(str(Recipe("video.mp4", count=3).make(tmp_path)), 1.0)
    for threads in (1, 2):
        container, stream = source.open(threads)
        with container:
            assert stream.codec_context.thread_count == threads
    source.close()


def test_a_deleted_file_has_not_changed_but_cannot_be_opened_again(tmp_path: Path) -> None:
    path = Recipe("video.mp4", count=3).make(tmp_path)
    source = Source(str(path), 1.0)
    path.unlink()
    source.check_unchanged()
    with pytest.raises(VideoError, match="no such file"):
        source.open(1)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="no such file"):
        Source(str(tmp_path / "gone.mp4"), 1.0).open(1)


@pytest.mark.parametrize(
    "change",
    [
        lambda path, other: other.rename(path),
        lambda path, other: path.write_bytes(other.read_bytes()),
        lambda path, other: path.open("ab").write(b"more"),
        lambda path, other: os.truncate(path, 1000),
    ],
)
def test_a_file_that_changes_is_noticed(change: Callable[[Path, Path], object], tmp_path: Path) -> None:
    path, other = (Recipe(name, count=3).make(tmp_path) for name in ("video.mp4", "other.mp4"))
    os.utime(path, (1e9, 1e9))
    for name in (str(path), path.as_uri()):
        source = Source(name, 1.0)
        source.open(1)[0].close()
        source.check_unchanged()
    change(path, other)
    with pytest.raises(VideoError, match="the file changed while it was used"):
        source.check_unchanged()
    with pytest.raises(VideoError):
        source.open(1)
