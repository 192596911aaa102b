"""The decoder's program: it answers every request, and loads little."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.video.videos import RECIPES, straight
from videoreasoner.video.isolated.child import DecoderServer


@pytest.fixture
def connection() -> Iterator[Connection]:
    """The parent's end of the connection to a server, which runs in a thread of this process."""
    ours, theirs = multiprocessing.Pipe()
    folder = os.getcwd()
    thread = threading.Thread(target=DecoderServer(theirs).serve)
    thread.start()
    yield ours
    ours.close()
    thread.join(timeout=20)
    os.chdir(folder)
    assert not thread.is_alive(), "the server ends when its connection is closed"


def _ask(connection: Connection, *request: Any) -> dict[str, Any]:
    connection.send_bytes(json.dumps(request).encode())
    assert connection.poll(20)
    return json.loads(connection.recv_bytes())


def test_frames_arrive_as_a_shape_and_their_bytes(connection: Connection, tmp_path: Path) -> None:
    path = RECIPES["short gops, b-frames"].make(tmp_path)
    assert _ask(connection, "open", path.name, str(tmp_path), 1) == {"width": 64, "height": 48, "rotation": 0}
    table = _ask(connection, "table")
    assert table["frame_times_s"] == (np.arange(50) / 25).tolist()
    assert table["key_times_s"] == table["frame_times_s"][::6]
    assert _ask(connection, "iterate", 7, [0.2, 1.0], "exact", None) == {}
    for time_s, position in ((0.2, 5), (1.0, 25)):
        assert _ask(connection, "next", 7) == {"time_s": time_s, "shape": [48, 64, 3]}
        pixels = np.frombuffer(connection.recv_bytes(), np.uint8).reshape(48, 64, 3)
        assert np.array_equal(pixels, straight(path)[position])
    assert _ask(connection, "next", 7) == {}
    # "drop" has no reply: the next one is that of "problems".
    connection.send_bytes(json.dumps(["drop", 7]).encode())
    assert _ask(connection, "problems") == {"problems": []}
    assert _ask(connection, "close") == {}


def test_an_error_is_a_reply_and_the_next_video_can_be_opened(connection: Connection, tmp_path: Path) -> None:
    reply = _ask(connection, "open", "nowhere.mp4", str(tmp_path), 1)
    assert reply == {"error": "VideoError", "message": "nowhere.mp4: no such file; check the path."}
    path = RECIPES["one frame"].make(tmp_path)
    assert _ask(connection, "open", str(path), str(tmp_path), 1)["width"] == 64


def test_frames_without_room_are_a_named_error(
    connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: object) -> Iterator[Any]:
        raise MemoryError
        yield

    monkeypatch.setattr("videoreasoner.video.pyav.file.VideoFile._images", no_room)
    _ask(connection, "open", str(RECIPES["one frame"].make(tmp_path)), str(tmp_path), 1)
    _ask(connection, "iterate", 0, [0.0], "exact", None)
    reply = _ask(connection, "next", 0)
    assert reply == {"error": "VideoError", "message": "frames of 64x48 pixels do not fit into memory."}


def test_the_program_loads_neither_torch_nor_a_model() -> None:
    code = "import sys, videoreasoner.video.isolated.child; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "videoreasoner.video.pyav.file" in loaded
    assert not loaded & {"torch", "transformers", "PIL", "pydantic"}
