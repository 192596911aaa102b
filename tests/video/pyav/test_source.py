"""A source is the same video each time it is opened."""

from __future__ import annotations

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


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="no such file"):
        Source(str(tmp_path / "gone.mp4"), 1.0).open(1)
