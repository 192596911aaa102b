import functools
import http.server
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import permutations
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.video.videos import (
    RECIPES,
    TOP_LEFT_RGB,
    Recipe,
    hide_vp8_frames,
    overwrite_packets,
    pack_b_frames,
    picture,
    straight,
)
from videoreasoner.errors import SettingError, VideoError
from videoreasoner.video.pyav import planned
from videoreasoner.video.pyav.file import VideoFile

SHORT_GOPS = RECIPES["short gops, b-frames"]


@functools.cache
def _straight(path: Path) -> list[np.ndarray]:
    return straight(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("videos")


@pytest.fixture(scope="module", params=RECIPES)
def path(request: pytest.FixtureRequest, folder: Path) -> Path:
    return RECIPES[request.param].make(folder)


@pytest.fixture
def short(folder: Path) -> Path:
    path = folder / SHORT_GOPS.file_name
    return path if path.exists() else SHORT_GOPS.make(folder)


@pytest.fixture
def seeks_always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planned, "FRAMES_WORTH_A_SEEK", 0)


def _on_screen(times_s: np.ndarray, wanted_s: float) -> int:
    return max(0, int((times_s <= wanted_s).sum()) - 1)


# Properties of every video


def test_the_table_lists_every_frame_that_a_straight_decode_shows(path: Path) -> None:
    with VideoFile(path) as video:
        times_s = video.frame_times_s
        assert times_s.dtype == np.float64
        assert times_s[0] == 0.0
        assert (np.diff(times_s) > 0).all()
        assert len(times_s) == len(_straight(path))
        assert video.duration_s > times_s[-1]
        assert video.fps == pytest.approx(len(times_s) / video.duration_s)
        assert video.problems == []


def test_frames_at_any_times_equal_a_straight_decode(path: Path) -> None:
    expected = _straight(path)
    video = VideoFile(path)
    all_s = video.frame_times_s

    @settings(max_examples=12, deadline=None, derandomize=True, database=None)
    @given(
        st.lists(
            st.floats(-1.0, video.duration_s + 1.0) | st.sampled_from(all_s.tolist()),
            min_size=1,
            max_size=8,
        ),
        st.sampled_from([0, planned.FRAMES_WORTH_A_SEEK]),
    )
    def check(times_s: list[float], worth_a_seek: int) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(planned, "FRAMES_WORTH_A_SEEK", worth_a_seek)
            compare(times_s)

    def compare(times_s: list[float]) -> None:
        positions = [_on_screen(all_s, time_s) for time_s in times_s]
        frames = video.frames_at(times_s)
        assert frames.times_s.tolist() == all_s[positions].tolist()
        for image, position in zip(frames.pixels, positions, strict=True):
            assert np.array_equal(image, expected[position])
        for (time_s, image), position in zip(video.iter_frames_at(times_s), positions, strict=True):
            assert time_s == all_s[position]
            assert np.array_equal(image, expected[position])

    check()
    assert video.problems == []
    video.close()


def test_all_frames_one_after_the_other_backwards_too(path: Path, seeks_always: None) -> None:
    expected = _straight(path)
    with VideoFile(path) as video:
        times_s = video.frame_times_s
        assert np.array_equal(video.frames_at(times_s).pixels, expected)
        backwards = video.iter_frames_at(times_s[::-3])
        for (_, image), position in zip(backwards, range(len(expected))[::-3], strict=True):
            assert np.array_equal(image, expected[position])


def test_keyframes_are_true_frames(path: Path) -> None:
    expected = _straight(path)
    with VideoFile(path) as video:
        frames = video.frames_at(np.linspace(0, video.duration_s, 5), seek="keyframe")
        for time_s, image in frames:
            position = _on_screen(video.frame_times_s, time_s)
            assert video.frame_times_s[position] == time_s
            assert np.array_equal(image, expected[position])


@pytest.mark.parametrize("suffix", ["avi", "mov"])
def test_pictures_with_a_palette_keep_its_colours(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"palette.{suffix}"
    palette = np.random.default_rng(0).integers(0, 256, (256, 4), np.uint8)
    palette[:, 0] = 255
    with av.open(str(path), "w") as container:
        stream = container.add_stream("rawvideo", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "pal8"
        for number in range(12):
            indices = picture(number, 64, 48)[..., 1].copy()
            frame = av.VideoFrame.from_ndarray((indices, palette), format="pal8")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    expected = straight(path)
    assert len(np.unique(expected[0].reshape(-1, 3), axis=0)) > 40
    with VideoFile(path) as video:
        for positions in ([0], [7], [3, 9, 1], range(12)):
            times_s = video.frame_times_s[list(positions)]
            assert np.array_equal(video.frames_at(times_s).pixels, [expected[n] for n in positions])
            assert np.array_equal(video.frames_at(times_s, "keyframe").pixels, [expected[n] for n in positions])
        assert video.problems == []


# Times


def test_times_of_an_uneven_video_are_those_it_was_made_with(folder: Path) -> None:
    recipe = RECIPES["variable rate"]
    with VideoFile(recipe.make(folder)) as video:
        stamps = np.array(recipe.stamps) - recipe.stamps[0]
        assert video.frame_times_s.tolist() == (stamps / 1000).tolist()


def test_an_edit_list_hides_what_lies_before_it(folder: Path) -> None:
    with VideoFile(RECIPES["edit list"].make(folder)) as video:
        assert video.frame_times_s.tolist() == (np.arange(40) / 25).tolist()
        assert video.duration_s == pytest.approx(1.6)


@pytest.mark.parametrize("name", ["starts late", "starts late mkv", "raw h264", "live mkv"])
def test_time_0_is_the_first_frame_and_the_duration_that_of_the_frames(name: str, folder: Path) -> None:
    with VideoFile(RECIPES[name].make(folder)) as video:
        assert video.frame_times_s == pytest.approx(np.arange(50) / 25)
        assert video.duration_s == pytest.approx(2.0)
        assert video.fps == pytest.approx(25.0)


def test_vp8_frames_that_are_never_shown_do_not_count(tmp_path: Path) -> None:
    path = tmp_path / "hidden.webm"
    hide_vp8_frames(RECIPES["vp8"].make(tmp_path), {7, 20, 21}, path)
    with VideoFile(path) as video:
        frames = video.frames_at(video.frame_times_s)
        assert len(frames) == 47
        assert np.array_equal(frames.pixels, straight(path))
        assert video.problems == []


def test_an_avi_whose_packets_are_not_its_frames(tmp_path: Path) -> None:
    made = Recipe("made.avi", codec="mpeg4", count=41, options={"bf": "1", "g": "20"})
    path = tmp_path / "packed.avi"
    pack_b_frames(made.make(tmp_path), path)
    expected = straight(path)
    with VideoFile(path) as video:
        assert video.frame_times_s == pytest.approx(np.arange(41) / 25)
        assert np.array_equal(video.frames_at(video.frame_times_s).pixels, expected)
        assert np.array_equal(video.frames_at([0.52, 0.04]).pixels, [expected[13], expected[1]])
        assert video.problems == []


@pytest.mark.parametrize("name", ["one frame", "one picture"])
def test_one_frame_lasts_as_long_as_its_rate_says(name: str, folder: Path) -> None:
    with VideoFile(RECIPES[name].make(folder)) as video:
        assert video.frame_times_s.tolist() == [0.0]
        assert video.duration_s == pytest.approx(1 / 25)
        assert video.frames_at([7.0, 0.0, -1.0]).times_s.tolist() == [0.0] * 3


def test_keyframe_gives_the_nearest_key_frame(short: Path) -> None:
    with VideoFile(short) as video:
        keys_s = video.frame_times_s[::6]
        wanted_s = np.linspace(0, 1.9, 11)
        nearest_s = keys_s[np.abs(wanted_s[:, None] - keys_s).argmin(axis=1)]
        assert video.frames_at(wanted_s, seek="keyframe").times_s.tolist() == nearest_s.tolist()


@pytest.mark.parametrize("times_s", [[], [float("nan")], [0.0, float("inf")], [[0.0]], 1.0, ["soon"]])
def test_times_that_make_no_sense(short: Path, times_s: list) -> None:
    with VideoFile(short) as video:
        with pytest.raises(SettingError, match="times_s"):
            video.frames_at(times_s)
        with pytest.raises(SettingError, match="times_s"):
            video.iter_frames_at(times_s)


def test_an_unknown_seek_names_the_choices(short: Path) -> None:
    with VideoFile(short) as video, pytest.raises(SettingError, match="exact, keyframe"):
        video.frames_at([0.0], seek="nearest")


# Which way is up


@pytest.mark.parametrize(
    ("name", "degrees", "size", "corner"),
    [
        ("plain.mp4", 0, (64, 48), (0, 0)),
        ("left.mp4", 270, (48, 64), (-1, 0)),
        ("down.mp4", 180, (64, 48), (-1, -1)),
        ("right.mp4", 90, (48, 64), (0, -1)),
        ("mirror.mp4", 0, (64, 48), (0, -1)),
    ],
)
def test_the_marked_corner_goes_where_the_video_says(
    name: str, degrees: int, size: tuple[int, int], corner: tuple[int, int], folder: Path
) -> None:
    mirrored = Recipe("mirror.mp4", count=10, mirrored=True)
    recipe = next(each for each in [*RECIPES.values(), mirrored] if each.file_name == name)
    with VideoFile(recipe.make(folder)) as video:
        assert video.rotation == degrees
        assert (video.width, video.height) == size
        image = video.frames_at([0.0]).pixels[0]
        assert image.shape == (size[1], size[0], 3)
        assert np.abs(image[corner].astype(int) - TOP_LEFT_RGB).max() < 40


# Damage


@pytest.fixture
def intra(tmp_path: Path) -> Path:
    return RECIPES["all key frames"].make(tmp_path)


def test_a_destroyed_frame_is_replaced_by_the_one_before_and_said(intra: Path) -> None:
    sound = straight(intra)
    overwrite_packets(intra, {20, 21, 30}.__contains__)
    with VideoFile(intra) as video:
        times_s = video.frame_times_s
        frames = video.frames_at(times_s)
        shown = [19 if n in (20, 21) else 29 if n == 30 else n for n in range(50)]
        assert frames.times_s.tolist() == times_s[shown].tolist()
        assert np.array_equal(frames.pixels, [sound[n] for n in shown])
        problems = video.problems
        assert any("No frame at 0.80 s, 0.84 s, 1.20 s" in problem for problem in problems)
        video.frames_at(times_s[::-1])
        assert video.problems == problems


def test_destroyed_first_frames_are_not_part_of_the_video(intra: Path) -> None:
    sound = straight(intra)
    overwrite_packets(intra, {0, 1}.__contains__)
    with VideoFile(intra) as video:
        assert np.array_equal(video.frames_at([0.0]).pixels[0], sound[2])
        assert len(video.frame_times_s) == 48
        assert video.problems


def test_a_destroyed_key_frame_leaves_the_other_gops_whole(tmp_path: Path) -> None:
    path = SHORT_GOPS.make(tmp_path)
    sound = straight(path)
    overwrite_packets(path, range(18, 24).__contains__)
    with VideoFile(path) as video:
        times_s = video.frame_times_s
        for position in (30, 20, 17, 24, 18, 49, 22):
            frames = video.frames_at([times_s[position]])
            assert frames.times_s[0] in times_s
            if position not in range(18, 24):
                assert np.array_equal(frames.pixels[0], sound[position])
            else:
                assert frames.times_s[0] == times_s[17]
        assert video.problems


def test_a_cut_off_video_with_its_index_in_front_gives_what_is_there(tmp_path: Path) -> None:
    recipe = Recipe("cut.mp4", options={"bf": "2", "g": "6"}, muxer_options={"movflags": "faststart"})
    path = recipe.make(tmp_path)
    sound = straight(path)
    path.write_bytes(path.read_bytes()[: -path.stat().st_size // 3])
    with VideoFile(path) as video:
        times_s = video.frame_times_s
        assert 10 < len(times_s) < 50
        assert video.duration_s < 2.0
        assert any("cut off" in problem for problem in video.problems)
        frames = video.frames_at(times_s)
        for time_s, image in list(frames)[:-3]:
            assert np.array_equal(image, sound[_on_screen(times_s, time_s)])


@pytest.mark.parametrize("name", ["vp9", "long gop, b-frames"])
def test_a_cut_off_matroska_video_says_so(name: str, tmp_path: Path) -> None:
    recipe = replace(RECIPES[name], file_name="cut.webm" if name == "vp9" else "cut.mkv", count=150)
    path = recipe.make(tmp_path)
    with VideoFile(path) as video:
        assert video.duration_s == pytest.approx(6.0, abs=0.1)
        assert video.problems == []
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with VideoFile(path) as video:
        assert video.duration_s < 4.9
        [problem] = [problem for problem in video.problems if "cut off" in problem]
        assert f"it holds {video.duration_s:.2f} s of the 6.00 s" in problem


def test_two_recordings_in_one_file_are_shown_one_after_the_other(tmp_path: Path) -> None:
    path = RECIPES["transport stream"].make(tmp_path)
    path.write_bytes(path.read_bytes() * 2)
    with VideoFile(path) as video:
        assert video.frame_times_s == pytest.approx(np.arange(100) / 25)
        frames = video.frames_at([3.0, 0.5])
        assert np.array_equal(frames.pixels, [straight(path)[75], straight(path)[12]])
        assert video.problems == []


def _recording(folder: Path, rate: int, start: int = 0, b_frames: int = 2) -> Path:
    """Three seconds of a transport stream whose clock starts at `start` pictures."""
    options = {"bf": str(b_frames), "g": "10"}
    stamps = range(start, start + 3 * rate)
    return Recipe(f"{rate}-{start}.ts", stamps=stamps, tick_s=Fraction(1, rate), options=options).make(folder)


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_recordings_with_other_clocks_and_rates_follow_each_other(order: tuple[int, ...], tmp_path: Path) -> None:
    made = [_recording(tmp_path, 10), _recording(tmp_path, 10, start=400_000), _recording(tmp_path, 5, b_frames=0)]
    path = tmp_path / "joined.ts"
    path.write_bytes(b"".join(made[number].read_bytes() for number in order))
    steps = [np.full(30, 0.1), np.full(30, 0.1), np.full(15, 0.2)]
    ends = np.cumsum(np.concatenate([steps[number] for number in order]))
    with VideoFile(path) as video:
        assert video.frame_times_s == pytest.approx([0, *ends[:-1]])
        assert video.duration_s == pytest.approx(9)
        assert len(video.frames_at(video.frame_times_s)) == 75
        assert video.problems == []


@pytest.mark.parametrize("rate", [10, 30])
def test_bare_pictures_are_shown_at_the_rate_that_they_state(rate: int, tmp_path: Path) -> None:
    path = tmp_path / "bare.h264"
    with av.open(str(_recording(tmp_path, rate))) as source, av.open(str(path), "w") as bare:
        stream = bare.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                bare.mux(packet)
    with VideoFile(path) as video:
        assert video.frame_times_s == pytest.approx(np.arange(3 * rate) / rate)
        assert video.duration_s == pytest.approx(3)


def test_a_small_preview_before_the_video_is_not_the_video(tmp_path: Path) -> None:
    path = tmp_path / "two.mkv"
    with av.open(str(path), "w") as container:
        streams = []
        for size in (16, 64):
            stream = container.add_stream("libx264", rate=25)
            stream.width, stream.height, stream.pix_fmt = size, size, "yuv420p"
            streams.append((stream, size))
        for stream, size in streams:
            for number in range(1 if size == 16 else 10):
                frame = av.VideoFrame.from_ndarray(picture(number, size, size), format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    with VideoFile(path) as video:
        assert (video.width, video.height, len(video.frame_times_s)) == (64, 64, 10)


def test_a_video_that_changes_size_keeps_its_first_size(tmp_path: Path) -> None:
    path = RECIPES["transport stream"].make(tmp_path)
    small = Recipe("small.ts", size=(32, 32), count=20).make(tmp_path)
    path.write_bytes(path.read_bytes() + small.read_bytes())
    with VideoFile(path) as video:
        pixels = video.frames_at(video.frame_times_s).pixels
        assert pixels.shape == (70, 48, 64, 3)
        assert np.abs(pixels[60, 2, 2].astype(int) - TOP_LEFT_RGB).max() < 40


def test_a_recording_that_begins_between_key_frames(tmp_path: Path) -> None:
    path = RECIPES["transport stream"].make(tmp_path)
    sound = straight(path)
    data = path.read_bytes()
    path.write_bytes(data[len(data) // 188 // 3 * 188 :])
    with VideoFile(path) as video:
        frames = video.frames_at(video.frame_times_s)
        count = len(frames)
        assert count > 10
        assert np.array_equal(frames.pixels, sound[-count:])


# What cannot be opened


def _refusal(path: Path | str) -> str:
    with pytest.raises(VideoError) as caught:
        VideoFile(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def test_no_file_at_all(tmp_path: Path) -> None:
    assert "no such file" in _refusal(tmp_path / "nowhere.mp4")
    assert "folder" in _refusal(tmp_path)
    (tmp_path / "empty.mp4").touch()
    assert "empty" in _refusal(tmp_path / "empty.mp4")


@pytest.mark.parametrize(
    "data",
    [b"These are words, not pictures.\n" * 200, np.random.default_rng(0).bytes(50_000)],
    ids=["text", "noise"],
)
def test_something_else_by_the_name_of_a_video(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    path.write_bytes(data)
    assert _refusal(path)


def test_an_mp4_without_its_index(tmp_path: Path) -> None:
    path = SHORT_GOPS.make(tmp_path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert "moov" in _refusal(path)


def test_a_video_without_pictures(tmp_path: Path) -> None:
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16_000)
        for start in range(0, 8 * 1024, 1024):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            frame.sample_rate, frame.pts = 16_000, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert "no video" in _refusal(path)


def test_a_video_of_which_nothing_can_be_decoded(intra: Path) -> None:
    overwrite_packets(intra, lambda number: True)
    assert "no frame can be decoded" in _refusal(intra)


def test_a_file_that_may_not_be_read(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The tests may run as root, whom no file mode keeps out.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert "permission" in _refusal(short)


def test_a_playlist_on_disk_fetches_nothing(served: str, tmp_path: Path) -> None:
    path = tmp_path / "list.m3u8"
    path.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{served}/video.ts\n#EXT-X-ENDLIST\n")
    assert _refusal(path)


# Where videos come from


@pytest.fixture
def served(folder: Path) -> Iterator[str]:
    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_video_behind_a_url_without_random_access(served: str, short: Path, seeks_always: None) -> None:
    expected = _straight(short)
    with VideoFile(f"{served}/{short.name}") as video:
        frames = video.frames_at([1.0, 0.2, 1.8])
        assert np.array_equal(frames.pixels, [expected[25], expected[5], expected[45]])
    assert "cannot be fetched" in _refusal(f"{served}/nothing.mp4")


@pytest.mark.parametrize("name", ["a:b 100%.mp4", "http:x.mp4", "été.mp4", "concat:a|b.mp4"])
def test_odd_names_and_file_urls(name: str, short: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / name
    shutil.copy(short, path)
    monkeypatch.chdir(tmp_path)
    for source in (name, path, path.as_uri()):
        with VideoFile(source) as video:
            assert len(video.frame_times_s) == 50


def test_a_closed_video_says_so(short: Path) -> None:
    with VideoFile(short) as video:
        video.frames_at([0.0])
    with pytest.raises(ValueError, match="closed"):
        video.frames_at([0.0])
    unread = VideoFile(short)
    unread.close()
    with pytest.raises(ValueError, match="closed"):
        _ = unread.duration_s


def test_iterating_and_jumping_do_not_disturb_each_other(short: Path) -> None:
    expected = _straight(short)
    with VideoFile(short) as video:
        for position, (_, image) in enumerate(video.iter_frames_at(video.frame_times_s)):
            assert np.array_equal(image, expected[position])
            image[:] = 0
            if position % 7 == 0:
                video.frames_at([1.9, 0.0])


def test_ffmpeg_writes_nothing_to_stderr(tmp_path: Path) -> None:
    path = SHORT_GOPS.make(tmp_path)
    overwrite_packets(path, range(18, 24).__contains__)
    code = (
        "import sys; from videoreasoner.video.pyav.file import VideoFile; "
        "video = VideoFile(sys.argv[1]); video.frames_at(video.frame_times_s)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.stderr == ""


@pytest.mark.parametrize("moment", ["before the table", "after the table", "between two frames"])
def test_frames_of_one_file_and_the_table_of_another_are_not_mixed(moment: str, tmp_path: Path) -> None:
    path = Recipe("video.mp4", count=20, options={"g": "5"}).make(tmp_path)
    other = Recipe("other.mp4", count=30, options={"g": "5"}).make(tmp_path)
    with VideoFile(path, threads=1) as video:
        times_s = np.arange(20) / 25
        frames = iter(())
        if moment != "before the table":
            assert len(video.frame_times_s) == 20
        if moment == "between two frames":
            frames = video.iter_frames_at(times_s)
            next(frames)
        other.rename(path)
        with pytest.raises(VideoError, match="the file changed while it was used"):
            print(list(frames), video.frames_at(times_s))


def test_frames_with_the_same_time_are_said(tmp_path: Path) -> None:
    target = tmp_path / "doubled.mkv"
    path = Recipe("video.mkv", codec="mjpeg", count=10, pixel_format="yuvj420p").make(tmp_path)
    with av.open(str(path)) as source, av.open(str(target), "w") as copy:
        stream = copy.add_stream_from_template(source.streams.video[0])
        for packet in (each for each in source.demux(video=0) if each.size):
            # The frames at 0.20 s and 0.24 s are now both at 0.20 s.
            packet.pts = packet.dts = 200 if packet.pts == 240 else packet.pts
            packet.stream = stream
            copy.mux(packet)
    with VideoFile(target) as video:
        assert len(video.frame_times_s) == 9
        expected = _straight(path)
        assert np.array_equal(video.frames_at([0.20, 0.28]).pixels, [expected[5], expected[7]])
        assert video.problems == ["1 of 10 frames have the time of another frame; the first of each is shown."]
