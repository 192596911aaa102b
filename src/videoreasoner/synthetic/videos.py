"""Synthetic data: worlds written as H.264 files, with rows that ask about them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from os import PathLike
from pathlib import Path
from typing import Any, get_args

import av
import numpy as np
from av.error import FFmpegError

from videoreasoner.errors import SettingError, VideoError
from videoreasoner.rows import Row, write_rows
from videoreasoner.synthetic.questions import Question, Split, make_question, reasoning
from videoreasoner.synthetic.world import (
    DetailKind,
    Event,
    Subset,
    World,
    WorldSettings,
    random_world,
    render,
)
from videoreasoner.tasks import LETTERS
from videoreasoner.utils.files import replacing

SETTINGS_FILE = "settings.json"
SPLITS: tuple[Split, ...] = get_args(Split)

# The version of the files, not of the package. It is raised when the same settings give other videos or rows.
FORMAT = 2
_VIDEO_NAME = re.compile(r"\d{5,}\.mp4|\.\d{5,}\.mp4\.\d+\.part")
_CHUNK_FRAMES = 64
_CHUNK_BYTES = 2**22
# The split "detail" promises that details show for no longer than this.
_MOST_DETAIL_SHARE = 0.02
# A detail of this many frame times is seen in at least one frame, also after rounding.
_FEWEST_DETAIL_FRAMES = 1.5
# Two kinds of question in three wordings.
_PLAIN_TEXTS_AN_EVENT = 6


@dataclass(frozen=True)
class VideoSettings:
    """How synthetic videos are drawn and written.

    Attributes:
        duration_s: length of a video in seconds, > 0. The file ends with a whole frame, so it may
            be up to one frame longer.
        fps: frames per second, 0.1 to 240.
        size: width and height in pixels, even, 16 to 1080.
        seed: 0 or more; names an endless sequence of videos.
        subset: which pairs of colour and shape occur.
        world: what happens in a video.
        gop_s: most seconds from one key frame to the next, > 0.

    Raises:
        SettingError: a value is out of range, or a detail might fall between two frames.
    """

    duration_s: float = 60.0
    fps: float = 10.0
    size: int = 96
    seed: int = 0
    subset: Subset = "train"
    world: WorldSettings = field(default_factory=WorldSettings)
    gop_s: float = 5.0

    def __post_init__(self) -> None:
        for name in ("duration_s", "gop_s"):
            value = getattr(self, name)
            if not (_is_real(value) and 0 < value < math.inf):
                raise SettingError(f"{name} must be a number of seconds above 0, not {value!r}")
        if not (_is_real(self.fps) and 0.1 <= self.fps <= 240):
            raise SettingError(f"fps must lie in [0.1, 240], not {self.fps!r}")
        if not (_is_whole(self.size) and 16 <= self.size <= 1080 and self.size % 2 == 0):
            raise SettingError(f"size must be an even number from 16 to 1080, not {self.size!r}")
        if not (_is_whole(self.seed) and self.seed >= 0):
            raise SettingError(f"seed must be a whole number from 0 on, not {self.seed!r}")
        if self.subset not in get_args(Subset):
            raise SettingError(f"subset must be one of {', '.join(get_args(Subset))}, not {self.subset!r}")
        if not isinstance(self.world, WorldSettings):
            raise SettingError(f"world must be WorldSettings, not {self.world!r}")
        if self.world.detail not in get_args(DetailKind):
            raise SettingError(f"detail must be one of {', '.join(get_args(DetailKind))}, not {self.world.detail!r}")
        shown = self.world.detail_share * self.duration_s * self.fps
        # With a little slack, because a product of 1.5 may be 1.4999999.
        if shown < _FEWEST_DETAIL_FRAMES - 1e-9:
            raise SettingError(
                f"a detail shows for {shown:.3g} frames and needs {_FEWEST_DETAIL_FRAMES:g} to be seen; raise "
                f"duration_s to {self.duration_s * _FEWEST_DETAIL_FRAMES / shown:.4g} or more, or fps, or detail_share"
            )

    @property
    def rate(self) -> Fraction:
        """Frames per second as the file states them."""
        return Fraction(self.fps).limit_denominator(1001)

    @property
    def frame_count(self) -> int:
        """Frames of a video: those shown before `duration_s`."""
        return math.ceil(round(self.duration_s * float(self.rate), 6))


def video_world(settings: VideoSettings, number: int) -> World:
    """The world of video `number` (from 0) of the seed. It does not depend on how many videos are made."""
    rng = np.random.default_rng([settings.seed, number])
    return random_world(rng, settings.world, settings.subset)


def write_video(path: str | PathLike[str], world: World, settings: VideoSettings) -> None:
    """Write a world as an mp4 file (H.264, yuv420p), complete or not at all.

    Frame i is shown at i / fps seconds and looks like the world at that time divided by
    `duration_s`. The same arguments give the same bytes. Memory does not grow with the length.

    Raises:
        VideoError: the file cannot be written.
    """
    rate = settings.rate
    try:
        with replacing(Path(path)) as temporary, av.open(str(temporary), "w", "mp4") as container:
            gop = max(1, round(settings.gop_s * float(rate)))
            options = {"crf": "18", "preset": "veryfast", "g": str(gop)}
            stream = container.add_stream("libx264", rate=rate, options=options)
            stream.width = stream.height = settings.size
            stream.pix_fmt = "yuv420p"
            # The bytes depend on the number of threads, and every thread holds frames.
            stream.codec_context.thread_count = 1
            chunk = max(1, min(_CHUNK_FRAMES, _CHUNK_BYTES // (3 * settings.size**2)))
            for first in range(0, settings.frame_count, chunk):
                numbers = np.arange(first, min(first + chunk, settings.frame_count))
                times = numbers / float(rate) / settings.duration_s
                for number, image in zip(numbers, render(world, times, settings.size), strict=True):
                    # When the encoder converted the frames, about 1 in 40 videos of 32 or 48 pixels had other bytes.
                    frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=stream.pix_fmt)
                    frame.pts, frame.time_base = int(number), 1 / rate
                    container.mux(stream.encode(frame))
            container.mux(stream.encode())
    except (OSError, FFmpegError) as error:
        raise VideoError(
            f"{path}: cannot be written ({error.strerror or error}); "
            "give a file name in a folder that exists, is writable and has room"
        ) from error


def make_videos(
    out_dir: str | PathLike[str],
    videos: int,
    settings: VideoSettings,
    splits: Sequence[Split] = SPLITS,
    questions_per_split: int = 1,
    progress: Callable[[int, int], None] | None = None,
    overwrite: bool = False,
) -> list[Row]:
    """Make a set of videos and the rows that ask about them.

    It writes `videos/00000.mp4` and so on, one `<split>.jsonl` for each split, and `settings.json` with everything
    that is needed to make the same set elsewhere. A second call for the same set, or for more videos of it, renders
    only the videos that are missing.

    Args:
        out_dir: the folder, made when it is not there.
        videos: how many, at least 1.
        settings: how videos are drawn and written.
        splits: which questions: "plain", "detail".
        questions_per_split: questions of each split about a video. They take its events in turn, and no two have
            the same words.
        progress: called with (videos done, all videos) after each video.
        overwrite: first remove the videos, rows and settings of any set in the folder. Other files stay.

    Returns:
        The rows as written: split after split, video after video.

    Raises:
        SettingError: a value makes no sense, or the folder holds another set.
        VideoError: a video cannot be written.
        RowError: a file of rows cannot be written.
    """
    _check(videos, settings, splits, questions_per_split)
    folder = Path(out_dir)
    content = {
        "format": FORMAT,
        "videos": videos,
        "splits": list(splits),
        "questions_per_split": questions_per_split,
        "settings": asdict(settings),
    }
    with _writing(folder):
        (folder / "videos").mkdir(parents=True, exist_ok=True)
        if overwrite:
            _clear(folder)
        _claim(folder, json.loads(json.dumps(content)))
    rows: dict[Split, list[Row]] = {split: [] for split in splits}
    for number in range(videos):
        world = video_world(settings, number)
        path = folder / _video_path(number)
        if not path.exists():
            write_video(path, world, settings)
        for split in splits:
            questions = _questions(settings, number, world, split, questions_per_split)
            for k, question in enumerate(questions):
                rows[split].append(_row(settings, number, world, split, k, question))
        if progress is not None:
            progress(number + 1, videos)
    for split in splits:
        write_rows(folder / f"{split}.jsonl", rows[split])
    with _writing(folder):
        _write_settings(folder, content)
    return [row for split in splits for row in rows[split]]


def _check(videos: int, settings: VideoSettings, splits: Sequence[Split], questions_per_split: int) -> None:
    if not (_is_whole(videos) and videos >= 1):
        raise SettingError(f"videos must be a whole number from 1 on, not {videos!r}")
    known = ", ".join(SPLITS)
    if isinstance(splits, str) or not splits or len(set(splits)) < len(splits):
        raise SettingError(f"splits must be different names out of {known}, not {splits!r}")
    for split in splits:
        if split not in SPLITS:
            raise SettingError(f"splits holds {split!r}; choose out of {known}")
    most = _PLAIN_TEXTS_AN_EVENT * settings.world.events[0]
    if not (_is_whole(questions_per_split) and 1 <= questions_per_split <= most):
        raise SettingError(
            f"questions_per_split must be 1 to {most}, not {questions_per_split!r}; "
            "videos with more events have more to ask about"
        )
    if "detail" in splits and settings.world.detail_share > _MOST_DETAIL_SHARE:
        raise SettingError(
            f"detail_share is {settings.world.detail_share:g}, and the split 'detail' promises at "
            f"most {_MOST_DETAIL_SHARE:g}; lower it, or leave that split out"
        )


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SettingError(
            f"{folder}: cannot be used as out_dir ({error.strerror or error}); choose a folder that is writable and "
            "has room"
        ) from error


def _clear(folder: Path) -> None:
    """Remove the files of a set, and no other files."""
    for path in (folder / "videos").iterdir():
        if _VIDEO_NAME.fullmatch(path.name):
            path.unlink()
    for name in (*(f"{split}.jsonl" for split in SPLITS), SETTINGS_FILE):
        (folder / name).unlink(missing_ok=True)


def _claim(folder: Path, content: dict[str, Any]) -> None:
    """Write the settings into the folder, unless it holds another set.

    The file keeps the number of videos of the last finished set (0 without one) until the new rows are written.
    """
    path = folder / SETTINGS_FILE
    finished = 0
    remedy = "choose another out_dir, or pass overwrite to replace it"
    if path.exists():
        try:
            there = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise SettingError(f"{path} is not JSON ({error}); {remedy}") from error
        differing = _differing(there, content)
        if differing:
            raise SettingError(f"{folder} holds videos of other settings ({', '.join(differing)}); {remedy}")
        if there["videos"] > content["videos"]:
            raise SettingError(
                f"{folder} holds a set of {there['videos']} videos; ask for no fewer than that, {remedy}"
            )
        finished = there["videos"]
    elif any(_VIDEO_NAME.fullmatch(video.name) for video in (folder / "videos").iterdir()) or any(
        (folder / f"{split}.jsonl").exists() for split in SPLITS
    ):
        raise SettingError(f"{folder} holds videos or rows without {SETTINGS_FILE}; {remedy}")
    _write_settings(folder, {**content, "videos": finished})


def _write_settings(folder: Path, content: dict[str, Any]) -> None:
    with replacing(folder / SETTINGS_FILE) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _differing(there: Any, here: dict[str, Any]) -> list[str]:
    """Names of the settings that differ between two settings files, without the number of videos."""
    if not isinstance(there, dict) or not isinstance(there.get("videos"), int):
        return ["videos"]
    a, b = _flat(there), _flat(here)
    return sorted(name for name in {*a, *b} - {"videos"} if a.get(name) != b.get(name))


def _flat(content: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in content.items():
        flat.update(_flat(value) if isinstance(value, dict) else {name: value})
    return flat


def _video_path(number: int) -> str:
    return f"videos/{number:05d}.mp4"


def _questions(settings: VideoSettings, number: int, world: World, split: Split, count: int) -> list[Question]:
    # Each split has its own random stream, so that its rows do not depend on which other splits are made.
    # It starts from 1, because for numpy [seed, n, 0] is the same stream as the world's [seed, n].
    rng = np.random.default_rng([settings.seed, number, 1 + SPLITS.index(split)])
    order = rng.permutation(len(world.events))
    questions: list[Question] = []
    texts: set[str] = set()
    while len(questions) < count:
        event = world.events[order[len(questions) % len(order)]]
        question = make_question(rng, world, event, split)
        if question.text not in texts:
            texts.add(question.text)
            questions.append(question)
    return questions


def _row(settings: VideoSettings, number: int, world: World, split: Split, k: int, question: Question) -> Row:
    event: Event = question.event
    return Row.model_validate(
        {
            "id": f"synthetic-{settings.subset}-s{settings.seed}-{number}-{split}-{k}",
            "video": _video_path(number),
            "question": question.text,
            "options": list(question.options),
            "answer": LETTERS[question.options.index(question.answer)],
            "event": _seconds(event.start, event.end, settings),
            "key_elements": list(question.key_elements),
            "reasoning": reasoning(world, question),
            "duration": settings.duration_s,
            "source": "synthetic",
            "split": split,
            "kind": question.kind,
            "answer_text": question.answer,
            "visible_s": _seconds(*question.visible_for, settings),
            "color": event.color,
            "shape": event.shape,
            "detail": event.detail,
        }
    )


def _seconds(start: float, end: float, settings: VideoSettings) -> list[float]:
    return [round(start * settings.duration_s, 3), round(end * settings.duration_s, 3)]


def _is_real(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
