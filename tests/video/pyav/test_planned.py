"""Planned decoding: runs hold what is wanted, frames equal a straight decode, odd videos are left to `careful`."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from av.container import InputContainer
from av.video.stream import VideoStream
from hypothesis import given
from hypothesis import strategies as st

from tests.video.videos import RECIPES, Recipe, overwrite_packets, straight
from videoreasoner.video.pyav import planned
from videoreasoner.video.pyav.careful import CarefulDecoder
from videoreasoner.video.pyav.file import VideoFile
from videoreasoner.video.pyav.index import FrameIndex
from videoreasoner.video.pyav.planned import plan_runs
from videoreasoner.video.pyav.source import Source

ORDINARY = [
    *("long gop, b-frames", "short gops, b-frames", "no b-frames", "variable rate mkv", "starts late", "edit list"),
    *("fragmented", "open gops", "open gops mp4", "hevc", "vp9", "vp8", "mpeg4 avi", "all key frames", "10 bit"),
]


# Planning


def _index(count: int, keys: list[int], counted: bool = False) -> FrameIndex:
    """A video of frames one tick apart."""
    stamps = np.arange(count, dtype=np.int64)
    return FrameIndex(stamps, count, Fraction(1, 25), np.array([(key, key) for key in keys], np.int64), counted)


@st.composite
def requests(draw: st.DrawFn) -> tuple[list[int], FrameIndex]:
    count = draw(st.integers(1, 600))
    keys = sorted({0, *draw(st.lists(st.integers(0, count - 1), max_size=12))})
    wanted = draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=40))
    return (sorted(wanted) if draw(st.booleans()) else wanted), _index(count, keys)


@given(requests(), st.sampled_from([1, 4]))
def test_runs_hold_every_wanted_frame_in_order_and_begin_at_its_key_frame(
    request_: tuple[list[int], FrameIndex], threads: int
) -> None:
    wanted, index = request_
    runs = plan_runs(wanted, index, threads)
    assert [position for run in runs for position in run.positions] == wanted
    for run in runs:
        assert list(run.positions) == sorted(run.positions)
        assert run.key == index.key_before(run.positions[0])


@given(requests())
def test_a_run_never_passes_more_than_a_seek_is_worth(request_: tuple[list[int], FrameIndex]) -> None:
    wanted, index = request_
    for run in plan_runs(wanted, index):
        for last, position in zip(run.positions, run.positions[1:], strict=False):
            key = int(index.keys[index.key_before(position), 0])
            assert key - last <= planned.FRAMES_WORTH_A_SEEK


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ([10, 90], [[10, 90]]),
        ([10, 110], [[10], [110]]),
        ([10, 95, 110], [[10, 95, 110]]),
        ([10, 84, 100], [[10, 84, 100]]),
        ([10, 83, 100], [[10, 83], [100]]),
        ([110, 10], [[110], [10]]),
        ([10, 10, 10], [[10, 10, 10]]),
        ([99, 199, 299], [[99, 199, 299]]),
    ],
)
def test_close_frames_share_a_run_and_far_ones_do_not(wanted: list[int], expected: list[list[int]]) -> None:
    runs = plan_runs(wanted, _index(400, [0, 100, 200, 300]))
    assert [list(run.positions) for run in runs] == expected


def test_several_threads_share_a_long_stretch_at_its_key_frames() -> None:
    index = _index(400, [0, 100, 200, 300])
    wanted = list(range(0, 400, 4))
    assert len(plan_runs(wanted, index, threads=1)) == 1
    assert [run.key for run in plan_runs(wanted, index, threads=2)] == [0, 1, 2, 3]


def test_a_video_of_key_frames_alone_is_not_cut_into_frames() -> None:
    index = _index(400, list(range(400)))
    assert len(plan_runs(range(400), index, threads=8)) <= 400 // planned.FRAMES_WORTH_A_THREAD + 1


def test_without_trusted_key_frames_decoding_begins_at_the_beginning() -> None:
    [run] = plan_runs([5, 300], _index(400, [], counted=True))
    assert run.key == 0


# Decoding


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("videos")


def _orders(count: int) -> list[list[int]]:
    rng = np.random.default_rng(count)
    jumps = rng.integers(count, size=12).tolist()
    return [list(range(count)), list(range(0, count, 7)), sorted(jumps), jumps, list(range(count))[::-5], [count - 1]]


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("name", RECIPES)
def test_any_frames_with_any_threads_equal_a_straight_decode(
    name: str, threads: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = RECIPES[name].make(folder)
    expected = straight(path)
    # Small, so that threads share these videos.
    monkeypatch.setattr(planned, "FRAMES_WORTH_A_THREAD", 10)
    for worth_a_seek in (0, 16):
        monkeypatch.setattr(planned, "FRAMES_WORTH_A_SEEK", worth_a_seek)
        with VideoFile(path, threads=threads) as video:
            for wanted in _orders(len(expected)):
                frames = video.frames_at(video.frame_times_s[wanted])
                assert frames.times_s.tolist() == video.frame_times_s[wanted].tolist()
                assert np.array_equal(frames.pixels, [expected[position] for position in wanted])
            assert video.problems == []


@pytest.mark.parametrize("name", RECIPES)
def test_with_care_alone_they_are_the_same(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = RECIPES[name].make(folder)
    expected = straight(path)
    monkeypatch.setattr(planned, "_certain", lambda *_: iter(()))
    with VideoFile(path) as video:
        for wanted in _orders(len(expected)):
            frames = video.frames_at(video.frame_times_s[wanted])
            assert np.array_equal(frames.pixels, [expected[position] for position in wanted])
        assert video.problems == []


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", ORDINARY)
def test_an_ordinary_video_needs_no_care(
    name: str, threads: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find(self: CarefulDecoder, position: int) -> None:
        raise AssertionError(f"frame {position} was decoded with care")

    monkeypatch.setattr(CarefulDecoder, "find", find)
    with VideoFile(RECIPES[name].make(folder), threads=threads) as video:
        for wanted in _orders(len(video.frame_times_s)):
            video.frames_at(video.frame_times_s[wanted])


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int | None]:
    """The stamps of all frames that come out of the quick decoders."""
    seen: list[int | None] = []
    certain: Callable[..., object] = planned._certain

    def watched(frames, *rest):  # type: ignore[no-untyped-def]
        return certain((seen.append(frame.pts) or frame for frame in frames), *rest)  # type: ignore[func-returns-value]

    monkeypatch.setattr(planned, "_certain", watched)
    return seen


def test_key_frames_cost_one_picture_each(folder: Path, decoded: list[int | None]) -> None:
    path = Recipe("gops.mp4", count=100, options={"bf": "2", "g": "20"}).make(folder)
    with VideoFile(path, threads=1) as video:
        times_s = video.frames_at(np.linspace(0, 4, 9), seek="keyframe").times_s
        assert set(times_s) == set(video.key_times_s.tolist())
        assert len(decoded) == len(video.key_times_s) == 5


def test_pictures_that_are_no_references_are_left_out(folder: Path, decoded: list[int | None]) -> None:
    flat_b_frames = "bframes=3:b-adapt=0:b-pyramid=none:keyint=100:min-keyint=100:scenecut=0"
    path = Recipe("flat.mp4", count=100, options={"x264-params": flat_b_frames}).make(folder)
    expected = straight(path)
    with VideoFile(path, threads=1) as video:
        frames = video.frames_at([90 / 25, 91 / 25, 93 / 25])
        assert np.array_equal(frames.pixels, [expected[n] for n in (90, 91, 93)])
        assert len(decoded) < 40


@pytest.mark.parametrize("threads", [1, 2])
def test_damage_is_left_to_the_careful_way_which_says_so(threads: int, tmp_path: Path) -> None:
    path = Recipe("damaged.mp4", count=60, options={"bf": "0", "g": "10"}).make(tmp_path)
    sound = straight(path)
    overwrite_packets(path, range(25, 27).__contains__)
    with VideoFile(path, threads=threads) as video:
        frames = video.frames_at(video.frame_times_s[::3])
        for position, image in zip(range(0, 60, 3), frames.pixels, strict=True):
            if position not in range(25, 30):
                assert np.array_equal(image, sound[position])
        assert any("decoded" in problem for problem in video.problems)


def test_a_video_that_vanishes_is_reported(tmp_path: Path) -> None:
    path = Recipe("video.mp4", count=40, options={"g": "10"}).make(tmp_path)
    with VideoFile(path, threads=2) as video:
        times_s = video.frame_times_s
        path.unlink()
        # What is open stays readable; nothing else can be opened.
        assert len(video.frames_at(times_s[::8])) == 5


def test_interlaced_pictures_are_decoded_with_care(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Recipe("fields.mp4", options={"g": "10", "bf": "2", "x264-params": "interlaced=1"}).make(folder)
    expected = straight(path)
    with VideoFile(path, threads=1) as video:
        found: list[int] = []
        find = CarefulDecoder.find
        monkeypatch.setattr(
            CarefulDecoder, "find", lambda self, position: (found.append(position), find(self, position))[1]
        )
        assert np.array_equal(video.frames_at(video.frame_times_s[3::9]).pixels, expected[3::9])
        assert found


def test_decoders_are_closed_and_kept_between_calls(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    open_source = Source.open

    def watched(self: Source, threads: int, *, is_strict: bool = False) -> tuple[InputContainer, VideoStream]:
        found = open_source(self, threads, is_strict=is_strict)
        # The careful decoder is not strict.
        opened.extend([found] if is_strict else [])
        return found

    monkeypatch.setattr(Source, "open", watched)
    path = Recipe("many.mp4", count=100, options={"g": "10"}).make(folder)
    with VideoFile(path, threads=2) as video:
        for _ in range(3):
            video.frames_at(np.arange(0.2, 4, 0.8))
        half_read = video.iter_frames_at(np.arange(0.2, 4, 0.8))
        next(half_read)
    half_read.close()
    assert 1 <= len(opened) <= 2 + 1
    for container, _ in opened:
        with pytest.raises((AssertionError, ValueError)):
            container.seek(0)


def test_a_run_that_is_too_large_to_hold_is_given_frame_by_frame(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Recipe("many2.mp4", count=100, options={"g": "10"}).make(folder)
    expected = straight(path)
    monkeypatch.setattr(planned, "_AHEAD_BYTES", 1)
    with VideoFile(path, threads=2) as video:
        assert np.array_equal(video.frames_at(video.frame_times_s[::7]).pixels, expected[::7])


@pytest.mark.parametrize("threads", [1, 2])
def test_a_video_that_is_closed_while_it_is_read_says_so(threads: int, folder: Path) -> None:
    path = Recipe("many3.mp4", count=100, options={"g": "10"}).make(folder)
    video = VideoFile(path, threads=threads)
    frames = video.iter_frames_at(np.arange(0.2, 4, 0.8))
    next(frames)
    video.close()
    with pytest.raises(ValueError, match="closed"):
        list(frames)


def test_many_threads_never_share_a_decoder(folder: Path) -> None:
    path = Recipe("many4.mp4", count=200, options={"g": "5"}).make(folder)
    expected = straight(path)
    with VideoFile(path, threads=8) as video:
        for _ in range(10):
            assert np.array_equal(video.frames_at(video.frame_times_s[3::25]).pixels, expected[3::25])
        assert video.problems == []
