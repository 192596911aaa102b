from __future__ import annotations

from collections import Counter
from pathlib import Path

from tests.video.damage import damaged_videos
from videoreasoner.errors import VideoError
from videoreasoner.video.isolated.file import GuardedVideoFile

COUNT = 2000


def test_damaged_videos_end_in_frames_or_a_named_error(tmp_path: Path) -> None:
    endings: Counter[str] = Counter()
    processes = set()
    for number, path in enumerate(damaged_videos(tmp_path, COUNT, seed=20260101)):
        try:
            with GuardedVideoFile(path, time_limit_s=60.0, threads=1 + number % 2) as video:
                assert video._process is not None
                processes.add(video._process.pid)
                times_s = [video.duration_s * share for share in (0.0, 0.2, 0.5, 0.55, 0.99)]
                exact = video.frames_at(times_s)
                keyframes = video.frames_at(times_s[1::2], seek="keyframe", short_side=20)
                assert set(exact.times_s) | set(keyframes.times_s) <= set(video.frame_times_s.tolist())
                endings["frames, with problems" if video.problems else "frames"] += 1
        except VideoError as error:
            message = str(error)
            assert str(path) in message
            assert "\n" not in message
            endings["stopped" if "was stopped" in message else "died" if "died" in message else "refused"] += 1
    # Nothing is hidden by refusing everything, and FFmpeg itself held out: else the process would be another.
    assert sum(endings.values()) == COUNT
    assert endings["frames"] > COUNT / 5
    assert endings["frames, with problems"] > COUNT / 10
    assert len(processes) <= 1 + endings["died"] + endings["stopped"], endings
