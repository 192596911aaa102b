"""Opening: the right stream, the right place in it, and a refusal in words."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.video.videos import RECIPES, Recipe
from videoreasoner.errors import VideoError
from videoreasoner.video.pyav.index import scan
from videoreasoner.video.pyav.opening import local_path, open_stream, packets_from


@pytest.mark.parametrize(
    ("source", "path"),
    [
        ("a b.mp4", "a b.mp4"),
        ("/data/a:b.mp4", "/data/a:b.mp4"),
        ("file:///data/a%20b.mp4", "/data/a b.mp4"),
        ("http://example.org/a.mp4", None),
        ("rtsp://example.org/a", None),
        ("FILE://localhost/a?b#c", "/a"),
        ("file://[", ""),
        ("./http://a.mp4", "./http://a.mp4"),
        ("concat:http://a.mp4|b", "concat:http://a.mp4|b"),
    ],
)
def test_the_file_that_a_source_names(source: str, path: str | None) -> None:
    assert local_path(source) == path


@pytest.mark.parametrize(("threads", "kind"), [(2, "AUTO"), (1, "SLICE")])
def test_several_threads_work_on_several_frames(threads: int, kind: str, tmp_path: Path) -> None:
    container, stream = open_stream(str(Recipe("video.mp4", count=3).make(tmp_path)), threads)
    with container:
        assert stream.codec_context.thread_count == threads
        assert stream.codec_context.thread_type.name == kind


@pytest.mark.parametrize("name", ["short gops, b-frames", "edit list", "variable rate mkv", "vp9", "mpeg4 avi"])
def test_packets_begin_at_the_key_frame(name: str, tmp_path: Path) -> None:
    path = str(RECIPES[name].make(tmp_path))
    container, stream = open_stream(path, 1)
    with container:
        index, _ = scan(container, stream, None)
        for pts, dts in index.keys[::-1].tolist():
            found = packets_from(container, stream, pts, dts)
            assert found is not None
            first = next(found)
            assert first.is_keyframe
            assert first.pts == pts


def test_a_key_frame_that_is_not_there_is_not_found(tmp_path: Path) -> None:
    container, stream = open_stream(str(RECIPES["short gops, b-frames"].make(tmp_path)), 1)
    with container:
        index, _ = scan(container, stream, None)
        pts, dts = index.keys[2].tolist()
        assert packets_from(container, stream, pts + 1, dts + 1) is None


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: None, "no such file; check the path"),
        (lambda path: path.mkdir(), "it is a folder"),
        (lambda path: path.touch(), "the file is empty"),
        (lambda path: os.mkfifo(path), "not a regular file"),
        (lambda path: path.write_text("words " * 99), "it is text, not a video"),
        (lambda path: path.write_bytes(bytes(range(256)) * 9), "FFmpeg cannot read it as a video"),
        (lambda path: path.write_bytes(b"\0\0\0\x18ftypisom" + bytes(99)), r"its index \(moov\) is missing or broken"),
    ],
)
def test_a_source_that_cannot_be_opened_is_named_with_the_remedy(make, words: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "video.mp4"
    make(path)
    with pytest.raises(VideoError, match=words) as caught:
        open_stream(str(path), 1)
    assert str(path) in str(caught.value)
