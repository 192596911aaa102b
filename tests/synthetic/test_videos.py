"""Videos: the files show their worlds, and sets can be resumed but not mixed."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from videoreasoner.errors import SettingError, VideoError
from videoreasoner.rows import Row, read_rows
from videoreasoner.spans import Span
from videoreasoner.synthetic import videos as video_module
from videoreasoner.synthetic.videos import VideoSettings, make_videos, video_world, write_video
from videoreasoner.synthetic.world import COLORS, WorldSettings, random_world, render
from videoreasoner.tasks import LETTERS, Task

SMALL = VideoSettings(duration_s=20.0, size=32)
TINY = VideoSettings(duration_s=4.0, size=16, world=WorldSettings(events=(2, 2), detail_share=0.05))
TINY_DETAIL = VideoSettings(duration_s=8.0, size=16, world=WorldSettings(detail_share=0.02))
LONG_DETAIL = WorldSettings(events=(1, 1), event_share=(0.5, 0.6), detail_share=0.25)


class Decoded(NamedTuple):
    codec: str
    pixel_format: str
    duration_s: float
    times_s: list[Fraction]
    keys_s: list[Fraction]
    pixels: NDArray[np.uint8]


def shown_at(frame: av.VideoFrame) -> Fraction:
    assert frame.pts is not None
    assert frame.time_base is not None
    return frame.pts * frame.time_base


def decode(path: Path) -> Decoded:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = list(container.decode(stream))
        assert stream.duration is not None
        assert stream.time_base is not None
        return Decoded(
            stream.codec_context.name,
            str(stream.codec_context.pix_fmt),
            float(stream.duration * stream.time_base),
            [shown_at(frame) for frame in frames],
            [shown_at(frame) for frame in frames if frame.key_frame],
            np.stack([frame.to_ndarray(format="rgb24") for frame in frames]),
        )


@pytest.mark.parametrize(
    "settings",
    [
        SMALL,
        replace(SMALL, size=96, world=WorldSettings(detail="digit", detail_share=0.02)),
        replace(SMALL, duration_s=6.01, fps=29.97),
        replace(SMALL, duration_s=2000.0, fps=0.1, gop_s=50.0),
        replace(SMALL, duration_s=0.7, fps=240.0, gop_s=0.01),
    ],
    ids=["small", "digits", "ntsc", "slow", "fast"],
)
def test_the_file_shows_the_world(tmp_path: Path, settings: VideoSettings) -> None:
    world = video_world(settings, 3)
    write_video(tmp_path / "video.mp4", world, settings)
    decoded = decode(tmp_path / "video.mp4")

    rate = Fraction(settings.fps).limit_denominator(1001)
    assert (decoded.codec, decoded.pixel_format) == ("h264", "yuv420p")
    assert decoded.times_s == [i / rate for i in range(settings.frame_count)]
    assert decoded.duration_s == pytest.approx(settings.frame_count / settings.fps, abs=1e-3)
    assert 0 <= settings.frame_count - settings.duration_s * settings.fps < 1
    gaps_s = np.diff([float(time_s) for time_s in [*decoded.keys_s, decoded.times_s[-1]]])
    assert gaps_s.max() <= max(settings.gop_s, 1 / settings.fps) + 1e-6

    expected = render(world, np.arange(settings.frame_count) / settings.fps / settings.duration_s, settings.size)
    assert decoded.pixels.shape == expected.shape
    error = np.abs(decoded.pixels.astype(int) - expected)
    # Colour is stored at half the resolution, so single pixels on an edge may be far off.
    assert error.mean((1, 2, 3)).max() < 10
    assert np.median(error, (1, 2, 3)).max() <= 6
    shifted = np.abs(decoded.pixels[1:].astype(int) - expected[:-1])
    assert error[1:].mean() < 0.8 * shifted.mean()


def test_what_rows_say_can_be_seen_in_the_decoded_video(tmp_path: Path) -> None:
    settings = replace(SMALL, size=64, duration_s=30.0)
    rows = make_videos(tmp_path, 2, settings, ["detail"])
    for row in rows:
        content = json.loads(row.to_json_line())
        decoded = decode(tmp_path / row.video)
        times_s = np.array(decoded.times_s, float)
        start_s, end_s = content["visible_s"]
        assert row.event is not None
        for color, (from_s, to_s) in {
            content["detail"]: (start_s, end_s),
            content["color"]: (row.event[0].start_s, start_s),
        }.items():
            shown = decoded.pixels[(times_s >= from_s + 1e-3) & (times_s < to_s - 1e-3)]
            assert len(shown)
            near = np.abs(shown.astype(int) - COLORS[color]).max(-1) < 30
            assert near.any((1, 2)).all()


def test_the_same_video_has_the_same_bytes(tmp_path: Path) -> None:
    for number in range(20):
        write_video(tmp_path / f"{number}.mp4", video_world(SMALL, 0), SMALL)
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


def test_the_drawing_of_a_video_is_as_promised() -> None:
    rng = np.random.default_rng([7, 2])
    settings = VideoSettings(seed=7, subset="held_out")
    assert video_world(settings, 2) == random_world(rng, WorldSettings(), "held_out")


@pytest.mark.parametrize(("size", "most"), [(16, 64), (256, 21), (1080, 1)])
def test_long_videos_are_rendered_in_small_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, most: int
) -> None:
    counts: list[int] = []

    def counting(world: Any, times: NDArray[np.float64], size: int) -> NDArray[np.uint8]:
        counts.append(len(times))
        return render(world, times, size)

    monkeypatch.setattr(video_module, "render", counting)
    settings = replace(SMALL, duration_s=300.0 if size == 16 else 20.0, size=size)
    if size == 1080:
        settings = replace(settings, duration_s=2.0, fps=3.0, world=LONG_DETAIL)
    write_video(tmp_path / "video.mp4", video_world(settings, 0), settings)
    assert max(counts) == most
    assert sum(counts) == settings.frame_count


def test_a_killed_write_leaves_no_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0

    def dying(world: Any, times: NDArray[np.float64], size: int) -> NDArray[np.uint8]:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return render(world, times, size)

    path = tmp_path / "video.mp4"
    path.write_bytes(b"an older file")
    monkeypatch.setattr(video_module, "render", dying)
    with pytest.raises(KeyboardInterrupt):
        write_video(path, video_world(SMALL, 0), SMALL)
    assert calls == 3
    assert [p.name for p in tmp_path.iterdir()] == ["video.mp4"]
    assert path.read_bytes() == b"an older file"


def test_a_video_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=r"nowhere/video\.mp4: cannot be written"):
        write_video(tmp_path / "nowhere" / "video.mp4", video_world(TINY, 0), TINY)


def test_a_set_holds_videos_rows_and_settings(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    rows = make_videos(tmp_path, 3, TINY_DETAIL, progress=lambda done, total: told.append((done, total)))
    names = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file())
    videos = [f"videos/0000{number}.mp4" for number in range(3)]
    assert names == ["detail.jsonl", "plain.jsonl", "settings.json", *videos]
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert rows == [row for split in ("plain", "detail") for row in read_rows(tmp_path / f"{split}.jsonl")]
    assert [row.video for row in rows] == videos * 2
    assert json.loads((tmp_path / "settings.json").read_text())["settings"] == {
        "duration_s": 8.0,
        "fps": 10.0,
        "size": 16,
        "seed": 0,
        "subset": "train",
        "world": {
            "events": [1, 3],
            "event_share": [0.12, 0.35],
            "gap_share": 0.03,
            "detail": "color",
            "detail_share": 0.02,
            "distractors": 1,
        },
        "gop_s": 5.0,
    }


def test_rows_carry_the_truth(tmp_path: Path) -> None:
    settings = replace(TINY_DETAIL, seed=4, subset="held_out")
    for row in make_videos(tmp_path, 2, settings, questions_per_split=2):
        content = json.loads(row.to_json_line())
        split, k = content["split"], row.id[-1]
        number = int(Path(row.video).stem)
        assert row.id == f"synthetic-held_out-s4-{number}-{split}-{k}"
        assert row.tasks() == set(Task)
        (event,) = [e for e in video_world(settings, number).events if e.color == content["color"]]
        assert (content["shape"], content["detail"]) == (event.shape, event.detail)
        assert row.event == [Span(round(event.start * 8, 3), round(event.end * 8, 3))]
        visible = (event.start, event.end) if split == "plain" else (event.detail_start, event.detail_end)
        assert content["visible_s"] == [round(time * 8, 3) for time in visible]
        assert row.options is not None
        assert row.options[LETTERS.index(row.answer or "")] == content["answer_text"]
        assert content["kind"] in ({"color", "shape"} if split == "plain" else {"flash"})
        assert (row.duration, row.source) == (8.0, "synthetic")


def test_a_row_does_not_depend_on_how_much_is_made(tmp_path: Path) -> None:
    little = make_videos(tmp_path / "little", 1, TINY_DETAIL, ["detail"])
    much = make_videos(tmp_path / "much", 2, TINY_DETAIL, questions_per_split=4)
    assert set(map(Row.to_json_line, little)) <= set(map(Row.to_json_line, much))
    first = "videos/00000.mp4"
    assert (tmp_path / "little" / first).read_bytes() == (tmp_path / "much" / first).read_bytes()


def test_questions_go_round_the_events_and_differ(tmp_path: Path) -> None:
    rows = make_videos(tmp_path, 2, TINY, ["plain"], questions_per_split=12)
    for number in range(2):
        mine = [row for row in rows if row.video == f"videos/0000{number}.mp4"]
        assert len({row.question for row in mine}) == len(mine) == 12
        events = [row.event for row in mine]
        assert events[0] != events[1]
        assert events == events[:2] * 6


def test_a_set_is_resumed_and_grows_without_rendering_again(tmp_path: Path) -> None:
    make_videos(tmp_path, 2, TINY, ["plain"])
    paths = [tmp_path / f"videos/0000{number}.mp4" for number in range(3)]
    paths[1].unlink()
    paths[0].write_bytes(b"not touched")
    times = paths[0].stat().st_mtime_ns
    rows = make_videos(tmp_path, 3, TINY, ["plain"])
    assert paths[0].read_bytes() == b"not touched"
    assert paths[0].stat().st_mtime_ns == times
    assert all(len(decode(path).pixels) == TINY.frame_count for path in paths[1:])
    assert len(rows) == len(list(read_rows(tmp_path / "plain.jsonl"))) == 3


def test_an_interrupted_set_is_resumed(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_videos(tmp_path, 2, TINY, ["plain"], progress=stop)
    assert not (tmp_path / "plain.jsonl").exists()
    # A set that was never finished does not prevent a smaller one.
    assert json.loads((tmp_path / "settings.json").read_text())["videos"] == 0
    before = (tmp_path / "videos/00000.mp4").stat().st_mtime_ns
    assert len(make_videos(tmp_path, 2, TINY, ["plain"])) == 2
    assert (tmp_path / "videos/00000.mp4").stat().st_mtime_ns == before


def test_another_set_in_the_folder_is_refused_or_replaced(tmp_path: Path) -> None:
    make_videos(tmp_path, 2, TINY, ["plain"])
    (tmp_path / "videos" / "holiday.mp4").write_bytes(b"mine")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    other = replace(TINY, seed=1, world=replace(TINY.world, distractors=2))
    with pytest.raises(SettingError, match=r"other settings \(distractors, seed\); .*overwrite"):
        make_videos(tmp_path, 2, other, ["plain"])
    with pytest.raises(SettingError, match=r"other settings \(questions_per_split\)"):
        make_videos(tmp_path, 2, TINY, ["plain"], questions_per_split=2)
    with pytest.raises(SettingError, match="holds a set of 2 videos; ask for no fewer"):
        make_videos(tmp_path, 1, TINY, ["plain"])
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    make_videos(tmp_path, 1, other, ["plain"], overwrite=True)
    assert sorted(path.name for path in (tmp_path / "videos").iterdir()) == [
        "00000.mp4",
        "holiday.mp4",
    ]
    make_videos(tmp_path, 1, other, ["plain"])


@pytest.mark.parametrize("content", ["", "[]", '{"videos": "3"}'])
def test_settings_that_are_no_settings_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "settings.json").write_text(content)
    with pytest.raises(SettingError, match=r"choose another out_dir, or pass overwrite"):
        make_videos(tmp_path, 1, TINY, ["plain"])


def test_videos_of_unknown_settings_are_refused(tmp_path: Path) -> None:
    make_videos(tmp_path, 1, TINY, ["plain"])
    (tmp_path / "settings.json").unlink()
    with pytest.raises(SettingError, match=r"without settings\.json"):
        make_videos(tmp_path, 1, TINY, ["plain"])


def test_a_file_is_no_folder_for_videos(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingError, match="file: cannot be used as out_dir"):
        make_videos(tmp_path / "file", 1, TINY, ["plain"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"duration_s": 0}, "duration_s must be"),
        ({"duration_s": float("nan")}, "duration_s must be"),
        ({"duration_s": float("inf")}, "duration_s must be"),
        ({"fps": 0.01}, "fps must lie"),
        ({"fps": "10"}, "fps must lie"),
        ({"fps": float("nan")}, "fps must lie"),
        ({"size": 14}, "size must be"),
        ({"size": 97}, "size must be"),
        ({"size": 1082}, "size must be"),
        ({"size": 96.0}, "size must be"),
        ({"seed": -1}, "seed must be"),
        ({"seed": True}, "seed must be"),
        ({"subset": "test"}, "subset must be one of train, held_out"),
        ({"world": None}, "world must be"),
        ({"world": WorldSettings(detail="sound")}, "detail must be one of"),  # type: ignore[arg-type]
        ({"gop_s": 0}, "gop_s must be"),
        ({"duration_s": 14.0}, "1.4 frames and needs 1.5.*raise duration_s to 15 or more, or fps, or detail_share"),
    ],
)
def test_settings_out_of_range_are_named(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingError, match=words):
        VideoSettings(**changes)


def test_a_detail_of_exactly_one_and_a_half_frames_is_enough() -> None:
    VideoSettings(duration_s=15.0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"videos": 0}, "videos must be"),
        ({"videos": 1.0}, "videos must be"),
        ({"splits": []}, "splits must be"),
        ({"splits": "plain"}, "splits must be"),
        ({"splits": ["plain", "plain"]}, "splits must be"),
        ({"splits": ["plain", "hard"]}, "splits holds 'hard'; choose out of plain, detail"),
        ({"splits": ["detail"]}, "detail_share is 0.05, and the split 'detail' promises"),
        ({"questions_per_split": 0}, "questions_per_split must be 1 to 12"),
        ({"questions_per_split": 13}, "questions_per_split must be 1 to 12"),
    ],
)
def test_requests_out_of_range_are_named(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    request: dict[str, Any] = {"videos": 1, "splits": ["plain"], **changes}
    with pytest.raises(SettingError, match=words):
        make_videos(tmp_path / "set", settings=TINY, **request)
    assert not (tmp_path / "set").exists()
