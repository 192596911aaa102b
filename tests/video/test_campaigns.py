"""Many damaged videos: a few with fixed seeds, and more with seeds that are drawn anew in `make test-slow`."""

from __future__ import annotations

import secrets
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import pytest
from av.error import FFmpegError
from av.video.frame import PictureType
from numpy.typing import NDArray

from tests.video.damage import burst_videos, damaged_videos
from videoreasoner.errors import VideoError
from videoreasoner.video.isolated.file import GuardedVideoFile
from videoreasoner.video.pyav.file import VideoFile

CASES = [
    pytest.param(300, 20260101, id="fixed"),
    pytest.param(2000, secrets.randbits(32), id="drawn", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("count", "seed"), CASES)
def test_damaged_videos_end_in_frames_or_a_named_error(count: int, seed: int, tmp_path: Path) -> None:
    endings: Counter[str] = Counter()
    processes = set()
    for number, path in enumerate(damaged_videos(tmp_path, count, seed)):
        case = f"seed {seed}, video {number}, {path.name}"
        try:
            with GuardedVideoFile(path, time_limit_s=60.0, threads=1 + number % 2) as video:
                assert video._process is not None
                processes.add(video._process.pid)
                times_s = [video.duration_s * share for share in (0.0, 0.2, 0.5, 0.55, 0.99)]
                exact = video.frames_at(times_s)
                keyframes = video.frames_at(times_s[1::2], seek="keyframe", short_side=20)
                assert set(exact.times_s) | set(keyframes.times_s) <= set(video.frame_times_s.tolist()), case
                endings["frames, with problems" if video.problems else "frames"] += 1
        except VideoError as error:
            message = str(error)
            assert str(path) in message, case
            assert "\n" not in message, case
            endings["stopped" if "was stopped" in message else "died" if "died" in message else "refused"] += 1
            assert "no frame" in message or not _opens(path), f"{case}: refused, but can be read: {message}"
    # Nothing is hidden by refusing everything, and FFmpeg itself held out: else the process would be another.
    assert sum(endings.values()) == count
    assert endings["frames"] > count / 5, f"seed {seed}"
    assert endings["frames, with problems"] > count / 10, f"seed {seed}"
    # A process is replaced after 500 videos.
    assert len(processes) <= 1 + endings["died"] + endings["stopped"] + count // 500, (seed, endings)


class _Straight(NamedTuple):
    """A decode from the beginning on one thread: frames by stamp, and the stamps that lie behind reported damage."""

    images: dict[int, NDArray[np.uint8]]
    hurt: set[int]


def _straight(path: Path) -> _Straight:
    images, hurt = {}, set()
    is_hurt = False
    with av.open(str(path), metadata_errors="replace") as container:
        stream = container.streams.video[0]
        if stream.codec_context is None:
            return _Straight(images, hurt)
        stream.codec_context.thread_count = 1
        for packet in container.demux(stream):
            try:
                frames = stream.codec_context.decode(packet)
            except FFmpegError:
                is_hurt = True
                continue
            for frame in frames:
                if frame.key_frame and frame.pict_type == PictureType.I and not frame.is_corrupt:
                    is_hurt = False
                is_hurt |= frame.is_corrupt
                if frame.pts is not None:
                    images[frame.pts] = np.asarray(frame.to_ndarray(format="rgb24"))
                    hurt |= {frame.pts} if is_hurt else set()
    return _Straight(images, hurt)


def _opens(path: Path) -> bool:
    """Whether FFmpeg alone gives a frame."""
    try:
        return bool(_straight(path).images)
    except (FFmpegError, IndexError):
        return False


@pytest.mark.parametrize(("count", "seed"), [*CASES[1:], pytest.param(100, 20260102, id="fixed")])
def test_a_few_damaged_bytes_are_reported_and_filled_as_in_a_straight_decode(
    count: int, seed: int, tmp_path: Path
) -> None:
    reported = unharmed = 0
    sound: dict[Path, list[NDArray[np.uint8]]] = {}
    for number, (path, source, rng) in enumerate(burst_videos(tmp_path, count, seed)):
        case = f"seed {seed}, video {number}, {path.name}"
        straight = _straight(path)
        if source not in sound:
            with VideoFile(source) as video:
                sound[source] = list(video.frames_at(video.frame_times_s).pixels)
        # One thread: several may give the last frames of an H.264 video before they know that these are damaged.
        with VideoFile(path, threads=1) as video:
            index = video._careful.index
            positions = np.sort(rng.choice(len(index.stamps), 6))
            frames = video.frames_at(video.frame_times_s[positions])
            wanted = index.stamps[positions].tolist()
            assert frames.times_s.tolist() == video.frame_times_s[positions].tolist() or video.problems, case
            if not index.counted:
                for stamp, image in zip(wanted, frames.pixels, strict=True):
                    assert stamp not in straight.images or np.array_equal(image, straight.images[stamp]), case
            is_whole = all(
                np.array_equal(sound[source][n], image) for n, image in zip(positions, frames.pixels, strict=True)
            )
            if straight.hurt & set(wanted) and not is_whole:
                assert video.problems, f"{case}: damage is not reported"
                reported += 1
            else:
                unharmed += not video.problems
    assert reported > count / 10, f"seed {seed}"
    assert unharmed > count / 10, f"seed {seed}"


@pytest.mark.parametrize(
    ("count", "seed", "codec"),
    [
        pytest.param(350, 12, "mpeg2", id="mpeg2"),
        pytest.param(60, 20260103, "", id="fixed"),
        pytest.param(500, secrets.randbits(32), "", id="drawn", marks=pytest.mark.slow),
    ],
)
def test_two_threads_report_what_one_reports(count: int, seed: int, codec: str, tmp_path: Path) -> None:
    reported = 0
    for number, (path, source, _) in enumerate(burst_videos(tmp_path, count, seed)):
        # The end of the video is left out: a decoder that is flushed may hide the errors of its threads.
        if not source.name.startswith(codec) or (codec and number < count - 20):
            continue
        reports = []
        for threads in (1, 2):
            try:
                with VideoFile(path, threads=threads) as video:
                    last = len(video.frame_times_s) - 1
                    video.frames_at(video.frame_times_s[[min(5, last), min(20, last)] if codec else [0, last // 2]])
                    reports.append(bool(video.problems))
            except VideoError as error:
                reports.append("no frame" in str(error))
        assert reports[0] == reports[1], f"seed {seed}, video {number}, {path.name}"
        reported += reports[0]
    assert reported
