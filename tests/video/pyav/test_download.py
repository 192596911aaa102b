"""Videos from servers that give them as a whole only; the servers are real, and some are broken."""

from __future__ import annotations

import http.server
import io
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from tests.video.videos import Recipe, straight
from videoreasoner.errors import SettingError, VideoError
from videoreasoner.video.isolated.file import GuardedVideoFile
from videoreasoner.video.pyav import download
from videoreasoner.video.pyav.download import fetch_whole
from videoreasoner.video.pyav.file import VideoFile

Handler = http.server.BaseHTTPRequestHandler


@contextmanager
def _served(send: Callable[[Handler], None]) -> Iterator[str]:
    """The address of a server that answers every request with `send`."""

    class Answering(Handler):
        def do_GET(self) -> None:
            try:
                send(self)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/video.mp4"
        server.shutdown()
        thread.join()


def _begin(handler: Handler, length: int | None, status: int = 200) -> None:
    handler.send_response(status)
    if length is not None:
        handler.send_header("Content-Length", str(length))
    handler.end_headers()


def _whole(data: bytes, stated: int | None = None) -> Callable[[Handler], None]:
    def send(handler: Handler) -> None:
        _begin(handler, len(data) if stated is None else stated)
        handler.wfile.write(data)

    return send


def _noise(handler: Handler) -> None:
    """Data without end."""
    _begin(handler, None)
    while True:
        handler.wfile.write(os.urandom(2**16))


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its index is at the end, and too far away for FFmpeg to read up to it."""
    recipe = Recipe("large.mov", codec="rawvideo", size=(160, 120), count=60, pixel_format="rgb24")
    path = recipe.make(tmp_path_factory.mktemp("videos"))
    assert path.stat().st_size > 1_000_000
    return path


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("says_length", [True, False])
def test_it_is_fetched_once_and_read_like_a_file(large: Path, temporary: Path, says_length: bool) -> None:
    requests = []

    def send(handler: Handler) -> None:
        requests.append(handler.path)
        _begin(handler, large.stat().st_size if says_length else None)
        handler.wfile.write(large.read_bytes())

    expected = straight(large)
    with _served(send) as address, VideoFile(address, threads=2) as video:
        frames = video.frames_at([1.0, 0.2, 2.2])
        assert np.array_equal(frames.pixels, [expected[25], expected[5], expected[55]])
        assert video.name == address
        assert video.problems == []
        # The file has no name, so nothing is left of it when its process is killed.
        assert list(temporary.iterdir()) == []
    assert len(requests) == 1


def test_it_works_in_the_decoders_process(large: Path) -> None:
    with _served(_whole(large.read_bytes())) as address:
        with GuardedVideoFile(address) as video:
            assert np.array_equal(video.frames_at([2.2]).pixels[0], straight(large)[55])
        with pytest.raises(VideoError, match=r"more than 0\.5 MB"):
            GuardedVideoFile(address, download_limit_mb=0.5)


def test_a_server_that_gives_parts_is_left_to_ffmpeg(large: Path) -> None:
    data = large.read_bytes()

    def send(handler: Handler) -> None:
        first, _, last = handler.headers["Range"].removeprefix("bytes=").partition("-")
        part = data[int(first) : int(last) + 1 if last else len(data)]
        handler.send_response(206)
        handler.send_header("Content-Range", f"bytes {first}-{int(first) + len(part) - 1}/{len(data)}")
        handler.send_header("Content-Length", str(len(part)))
        handler.end_headers()
        handler.wfile.write(part)

    with _served(send) as address:
        assert fetch_whole(address, 1e-6) is None
        with VideoFile(address) as video:
            assert len(video.frame_times_s) == 60


@pytest.mark.parametrize(
    ("send", "words"),
    [
        (_whole(bytes(5000), stated=9000), "sent 5000 of 9000 bytes"),
        (_whole(b"", stated=9000), "sent 0 of 9000 bytes"),
        (_whole(bytes(5000), stated=2**40), "more than 1 MB.*VIDEOREASONER_DOWNLOAD_LIMIT_MB"),
        (_noise, "more than 1 MB"),
        (_whole(b"words " * 1000), "it is text"),
        (_whole(b""), "empty"),
        (lambda handler: _begin(handler, 0, status=404), "cannot be fetched"),
    ],
)
def test_a_server_that_sends_something_else(send: Callable[[Handler], None], words: str, temporary: Path) -> None:
    with _served(send) as address:
        with pytest.raises(VideoError, match=words) as caught:
            VideoFile(address, download_limit_mb=1.0)
        assert str(caught.value).startswith(f"{address}: ")
        assert "\n" not in str(caught.value)
    assert list(temporary.iterdir()) == []


def test_a_stated_length_that_is_too_short_ends_the_download_there(large: Path) -> None:
    with _served(_whole(large.read_bytes(), stated=5000)) as address, pytest.raises(VideoError, match="cut off"):
        VideoFile(address)


def test_a_server_that_stalls_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    done = threading.Event()

    def send(handler: Handler) -> None:
        _whole(bytes(5000), stated=9000)(handler)
        handler.wfile.flush()
        done.wait(60)

    with _served(send) as address:
        with pytest.raises(VideoError, match="more than 2 s"):
            GuardedVideoFile(address, time_limit_s=2.0)
        monkeypatch.setattr(download, "_TIMEOUT_S", 0.3)
        with pytest.raises(VideoError, match=r"sent nothing for 0\.3 s"):
            VideoFile(address)
        done.set()


def test_a_full_disk_is_said(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "TemporaryFile", lambda **_: io.FileIO("/dev/full", "w"))
    with _served(_whole(large.read_bytes())) as address, pytest.raises(VideoError, match=r"No space left.*TMPDIR"):
        VideoFile(address)


def test_a_playlist_is_left_to_ffmpeg() -> None:
    with _served(_whole(b"#EXTM3U\n#EXTINF:2,\nvideo.ts\n")) as address:
        assert fetch_whole(address, 1.0) is None
    for source in ("video.mp4", "file:///video.mp4", "http://[", "http://127.0.0.1:1/é\n"):
        assert fetch_whole(source, 1.0) is None


@pytest.mark.parametrize("limit", ["much", "0", "nan"])
def test_a_limit_that_makes_no_sense(limit: str, large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDEOREASONER_DOWNLOAD_LIMIT_MB", limit)
    for opening in (VideoFile, GuardedVideoFile):
        with pytest.raises(SettingError, match="DOWNLOAD_LIMIT_MB"):
            opening(large)
