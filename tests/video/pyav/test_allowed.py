"""What FFmpeg may not do with a source: other protocols, other files, text as video, huge pictures."""

from __future__ import annotations

import http.server
import os
import shutil
import socket
import struct
import threading
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import av
import pytest
from av.format import ContainerFormat
from PIL import Image

from tests.video.videos import RECIPES, Recipe
from videoreasoner.errors import SettingError, VideoError
from videoreasoner.video.isolated.file import GuardedVideoFile
from videoreasoner.video.pyav.allowed import MAX_PIXELS_VARIABLE, ffmpeg_options, max_pixels, what_it_is
from videoreasoner.video.pyav.file import VideoFile

_VIDEO = Recipe("inner.mp4", count=6)
_PNG = RECIPES["one picture"]


@pytest.fixture
def hits() -> Iterator[list[str]]:
    """Addresses on this machine that are asked for. The first is that of the server itself, as "host:port"."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            body = f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nhttp://{asked[0]}/part.ts\n#EXT-X-ENDLIST\n".encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/vnd.apple.mpegurl")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        asked.append(f"127.0.0.1:{server.server_port}")
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield asked
        server.shutdown()


_ADDRESSES = (
    "concat:inner.mp4|inner.mp4 subfile,,start,0,end,999,,:inner.mp4 async:inner.mp4 cache:inner.mp4 crypto:inner.mp4 "
    "crypto+file:inner.mp4 concatf:list data:text/plain,abc pipe: pipe:0 fd: fd:0 unix:/tmp/a md5:a file:inner.mp4 "
    "tcp://HOST?listen=1 udp://HOST rtp://HOST rtsp://HOST/a rtmp://HOST/a tls://HOST ftp://HOST/a gopher://HOST/ "
    "srtp://HOST mmsh://HOST/a ffrtmphttp://HOST/ httpproxy://HOST/ icecast://HOST/a ipfs://a unix:///tmp/a "
    "subfile,,start,0,end,9,,:http://HOST/a async:http://HOST/a cache:http://HOST/a crypto+http://HOST/a "
    "hls+http://HOST/a hls,http://HOST/a.m3u8 concat:http://HOST/a|b data://HOST/ lavfi:testsrc testsrc:a "
    "file://HOST/inner.mp4 file://[ http://HOST/a%20b\r\nX:y http://HOST/a\0"
)


@pytest.mark.parametrize("address", _ADDRESSES.split(" "))
def test_other_protocols_never_reach_ffmpeg(
    address: str, hits: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _VIDEO.make(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(av, "open", lambda *_, **__: pytest.fail("FFmpeg was asked"))
    with pytest.raises(VideoError) as caught:
        VideoFile(address.replace("HOST", hits[0]))
    assert "\n" not in str(caught.value)
    assert len(hits) == 1


def test_no_port_is_opened(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    for address in (f"tcp://127.0.0.1:{port}?listen=1", f"http://127.0.0.1:{port}/?listen=1"):
        with pytest.raises(VideoError, match=r"tcp:// is not read|cannot be fetched"):
            VideoFile(address)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))


_NAMES = (
    "concat:a|b.mp4 subfile,,start,0,end,1,,:a.mp4 pipe:0 a:b.mp4 100%.mp4 a?b#c.mp4 -i.mp4 %41.mp4 data:,a.mp4 "
    "a%03d.png a*{b}.png 'a'.mp4 a\nb.mp4 a.m3u8 a.txt a.idx"
)


@pytest.mark.parametrize("name", _NAMES.split(" "))
def test_odd_names_are_names_of_files(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = (_PNG if name.endswith(".png") else _VIDEO).make(tmp_path)
    shutil.copy(made, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    for source in (name, str(tmp_path / name)):
        with VideoFile(source) as video:
            assert (video.width, video.height) == (64, 48)
            assert video.problems == []


def _moved(path: Path, target: Path) -> bytes:
    """An mp4 whose pictures are said to lie in another file (an alias record in its data reference box)."""
    data = path.read_bytes()
    name = str(target).encode()
    alias = struct.pack(">I4sI10x", 0, b"alis", 0) + bytes([1]) + b"v".ljust(27, b"\0") + bytes(12)
    alias += bytes([len(target.name)]) + target.name.encode().ljust(63, b"\0") + bytes(16) + struct.pack(">HH16x", 1, 1)
    alias += struct.pack(">HH", 2, len(name)) + name + bytes(len(name) % 2) + struct.pack(">hH", -1, 0)
    alias = struct.pack(">I", len(alias)) + alias[4:]
    entry = data.index(b"url ", data.index(b"dref")) - 4
    grown = bytearray(data[:entry] + alias + data[entry + 12 :])
    for box in (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"):
        at = data.index(box, data.index(b"moov")) - 4
        struct.pack_into(">I", grown, at, struct.unpack_from(">I", data, at)[0] + len(alias) - 12)
    return bytes(grown)


_IDX = "# VobSub index file, v7 (do not modify this line!)\nid: en, index: 0\ntimestamp: 00:00:00:000, filepos: 0\n"
_HLS = "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{}\n#EXT-X-ENDLIST\n"
_DASH = (
    '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT1S">'
    '<Period><AdaptationSet contentType="video"><Representation id="1" bandwidth="9"><BaseURL>{}</BaseURL>'
    "</Representation></AdaptationSet></Period></MPD>"
)
_SDP = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=a\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"
_TRICKS = [
    *((name, _HLS, "it is a playlist") for name in ("a.m3u8", "a.m3u", "a.mp4", "a.ts", "a")),
    *((name, "ffconcat version 1.0\nfile '{}'\n", "it is a playlist") for name in ("a.ffconcat", "a.mp4")),
    *((name, _DASH, "it is a playlist") for name in ("a.mpd", "a.mp4")),
    *((name, _IDX, "it is text") for name in ("inner.idx", "a.mp4")),
    *((name, _SDP, "it is text") for name in ("a.sdp", "a.mp4")),
    *((name, "Plain words.\n" * 99, "it is text") for name in ("a.txt", "a.ans", "a.nfo", "a.mp4", "a.srt")),
    ("a.png", "Plain words.\n" * 99, "no frame can be decoded"),
    ("a.asx", '<asx version="3.0"><entry><ref href="{}"/></entry></asx>', "it is text"),
    ("a.ans", "\x1b[31mred\x1b[0m\n" * 99, "it is text"),
    ("a.svg", '<svg xmlns="http://www.w3.org/2000/svg"><image href="{}"/></svg>', "it is text"),
    ("a.lavfi", "movie={}", "it is text"),
    ("a.bin", "\x07text\x07" * 999, "FFmpeg cannot read it as a video"),
    ("a.Y", "\x80" * 4608, "pixels without a header"),
]


@pytest.mark.parametrize(("name", "text", "words"), _TRICKS)
def test_a_file_opens_no_other_file_and_no_address(
    name: str, text: str, words: str, hits: list[str], tmp_path: Path
) -> None:
    inner = _VIDEO.make(tmp_path)
    siblings = [inner, inner.with_suffix(".sub"), tmp_path / "a.U", tmp_path / "a.V"]
    for sibling in siblings[1:]:
        shutil.copy(inner, sibling)
    for place in ("inner.mp4", str(inner), f"file:{inner}", f"http://{hits[0]}/part.ts"):
        (tmp_path / name).write_text(text.replace("{}", place))
        for sibling in siblings:
            os.utime(sibling, (0, sibling.stat().st_mtime))
        with pytest.raises(VideoError, match=words) as caught:
            VideoFile(tmp_path / name)
        assert "\n" not in str(caught.value)
        assert [sibling.stat().st_atime for sibling in siblings] == [0.0] * len(siblings)
    assert len(hits) == 1


def test_a_pattern_of_names_is_no_video(tmp_path: Path) -> None:
    shutil.copy(_PNG.make(tmp_path), tmp_path / "a001.png")
    for pattern in ("a%03d.png", "a*.png", "a{001}.png"):
        with pytest.raises(VideoError, match="no such file"):
            VideoFile(tmp_path / pattern)


def test_a_mov_reads_no_pictures_from_another_file(tmp_path: Path) -> None:
    inner = _VIDEO.make(tmp_path)
    (tmp_path / "outer.mov").write_bytes(_moved(inner, inner))
    os.utime(inner, (0, inner.stat().st_mtime))
    with pytest.raises(VideoError, match="no frame"):
        VideoFile(tmp_path / "outer.mov")
    assert inner.stat().st_atime == 0.0
    # The file does refer to the other one: FFmpeg reads it when it is allowed to.
    with av.open(str(tmp_path / "outer.mov"), options={"enable_drefs": "1", "use_absolute_path": "1"}) as container:
        assert len(list(container.decode(video=0))) == 6


def test_reading_a_file_is_noticed_by_its_access_time(tmp_path: Path) -> None:
    """Or else the tests above would say nothing."""
    path = _VIDEO.make(tmp_path)
    os.utime(path, (0, path.stat().st_mtime))
    with VideoFile(path):
        pass
    if path.stat().st_atime == 0.0:
        pytest.skip("this file system keeps no access times")


def test_a_playlist_behind_an_address_fetches_nothing(hits: list[str]) -> None:
    with pytest.raises(VideoError, match="playlists and pages are not followed"):
        VideoFile(f"http://{hits[0]}/list.m3u8")
    assert set(hits[1:]) == {"/list.m3u8"}


def test_every_listed_format_exists() -> None:
    for name in ffmpeg_options(is_local=True)["format_whitelist"].split(","):
        # jpegxl_anim and the like depend on how FFmpeg was built; a name that is misspelt would be unknown everywhere.
        assert ContainerFormat(name, "r").is_input, name


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (b"\xef\xbb\xbf#EXTM3U\n", "playlist"),
        (b"<?xml?><MPD>", "playlist"),
        (b"\n\nwords", "text"),
        ("Größe".encode("latin-1"), "text"),
        (b"", None),
        (b"\0\0\0\x18ftyp", None),
        (b"\x89PNG\r\n\x1a\n", None),
    ],
)
def test_what_a_refused_file_is(head: bytes, words: str | None) -> None:
    said = what_it_is(head)
    assert (said is None) if words is None else (said is not None and words in said)


# The size of pictures


def _picture(path: Path, side: int) -> Path:
    Image.new("RGB", (side, side)).save(path)
    return path


@pytest.mark.parametrize("suffix", ["gif", "png", "jpg", "webp", "bmp"])
def test_the_limit_of_pixels_is_exact(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _picture(tmp_path / f"a.{suffix}", 100)
    monkeypatch.setenv(MAX_PIXELS_VARIABLE, "10000")
    with VideoFile(path) as video:
        assert (video.width, video.height) == (100, 100)
    monkeypatch.setenv(MAX_PIXELS_VARIABLE, "9999")
    with pytest.raises(VideoError, match=f"100x100 pixels, and at most 9999 are read; .*{MAX_PIXELS_VARIABLE}"):
        VideoFile(path)


def test_a_small_file_with_a_huge_picture_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    path = _picture(tmp_path / "a.gif", 10)
    data = bytearray(path.read_bytes())
    at = data.index(b"\x2c") + 5
    data[6:10] = data[at : at + 4] = struct.pack("<HH", 16000, 16000)
    path.write_bytes(data)
    for kind in (VideoFile, GuardedVideoFile):
        with pytest.raises(VideoError, match=rf"more than {2**26} pixels.*{MAX_PIXELS_VARIABLE}"):
            kind(path)


def test_8k_can_be_read() -> None:
    assert max_pixels() >= 7680 * 4320


def test_a_huge_picture_later_in_a_video_is_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = []
    for side in (64, 64, 5000, 64):
        stream = BytesIO()
        Image.new("L", (side, side)).save(stream, "JPEG")
        pictures.append(stream.getvalue())
    path = tmp_path / "a.mjpeg"
    path.write_bytes(b"".join(pictures))
    monkeypatch.setenv(MAX_PIXELS_VARIABLE, "4096")
    with VideoFile(path) as video:
        frames = video.frames_at(video.frame_times_s)
        assert frames.pixels.shape[1:] == (64, 64, 3)
        assert any("could not be decoded" in problem for problem in video.problems)


@pytest.mark.parametrize("text", ["0", "-1", "1e6", "many", "9" * 5000, str(2**31), "٣"])
def test_a_limit_that_is_no_number_of_pixels(text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = _VIDEO.make(tmp_path)
    monkeypatch.setenv(MAX_PIXELS_VARIABLE, text)
    with pytest.raises(SettingError, match=MAX_PIXELS_VARIABLE):
        VideoFile(path)
