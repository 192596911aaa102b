"""Held-out synthetic videos as a benchmark: pairs of colour and shape, and seeds, that no training uses."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from videoreasoner.benchmarks.scores import answer_scores, event_scores, key_element_scores
from videoreasoner.errors import SettingError
from videoreasoner.rows import Row
from videoreasoner.scoring import reference_events
from videoreasoner.spans import Span, best_iou
from videoreasoner.synthetic.questions import Split
from videoreasoner.synthetic.videos import SETTINGS_FILE, SPLITS, VideoSettings, make_videos, video_world
from videoreasoner.utils.hashing import hash_data, hash_rows

# The first seed of videos for evaluation; training uses smaller ones.
FIRST_HELD_OUT_SEED = 20_000_000
DEFAULT_SEED = 20_261_124

# Ratios of a guess without looking at the video; a baseline for the event metrics.
_MIDDLE = (0.35, 0.65)


@dataclass(frozen=True)
class VideoBenchmark:
    """Questions about synthetic videos; see `Benchmark`."""

    name: str
    rows: tuple[Row, ...]
    video_root: Path
    data_hash: str

    def scores(self, row: Row, answer: Mapping[str, Any]) -> dict[str, float]:
        """The scores of any row, and two that need a video's exact truth.

        `evidence_seen`: a frame of the final pass falls into the time when what is asked for can be seen.
        `event_iou_middle`: what the middle 30 % of the video would score as the event.
        """
        scores = {**answer_scores(row, answer), **event_scores(row, answer), **key_element_scores(row, answer)}
        extra = row.model_extra or {}
        start, end = extra["visible_s"]
        scores["evidence_seen"] = float(any(start <= frame["time_s"] < end for frame in answer["frames"]))
        if "event_iou" in scores:
            middle = Span.from_ratios(*_MIDDLE, answer["duration_s"])
            scores["event_iou_middle"] = best_iou(middle, reference_events(row, answer["duration_s"]))
        return scores

    def groups(self, row: Row) -> dict[str, str]:
        """Key -> value, from the field `groups` of the row."""
        return dict((row.model_extra or {})["groups"])


def held_out_settings(seed: int = DEFAULT_SEED, **settings: Any) -> VideoSettings:
    """Settings of held-out videos: `VideoSettings` with its other fields as given.

    Raises:
        SettingError: the seed is one that training may use, or another value makes no sense.
    """
    if seed < FIRST_HELD_OUT_SEED:
        raise SettingError(
            f"--seed {seed} may have been trained on; seeds of held-out videos start at {FIRST_HELD_OUT_SEED:,}"
        )
    return VideoSettings(seed=seed, subset="held_out", **settings)


def synthetic_benchmark(
    videos_dir: Path,
    videos: int,
    settings: VideoSettings,
    splits: Sequence[Split] = SPLITS,
    questions_per_split: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> VideoBenchmark:
    """The questions of some splits about the first videos of a seed, grouped by split and number of events.

    Videos are made in a folder of their own under `videos_dir`, named by their settings, and reused by every call that
    wants them, whatever it asks about them.

    Raises:
        SettingError: a value makes no sense. VideoError: a video cannot be written.
    """
    folder, rows = made_videos(videos_dir, videos, settings, splits, questions_per_split, progress)
    counts = [str(len(video_world(settings, number).events)) for number in range(videos)]
    grouped = []
    for number, row in rows:
        groups = {"split": (row.model_extra or {})["split"], "events": counts[number]}
        grouped.append(row.model_copy(update={"groups": groups}))
    return VideoBenchmark("synthetic", tuple(grouped), folder, hash_rows(grouped, folder))


def made_videos(
    videos_dir: Path,
    videos: int,
    settings: VideoSettings,
    splits: Sequence[Split],
    questions_per_split: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Path, list[tuple[int, Row]]]:
    """The first videos of a seed, made where they are missing.

    Returns:
        Their folder, and (number of the video, row) for each question of the splits.
    """
    if videos < 1:
        raise SettingError(f"videos is {videos}; ask for at least 1")
    content = hash_data([asdict(settings), questions_per_split])
    folder = videos_dir / f"s{settings.seed}-{settings.duration_s:g}s-{settings.size}px-{content[:8]}"
    # All splits, so that a call for another split finds its rows, too. A set never becomes smaller.
    wanted = max(videos, _videos_there(folder))
    made = make_videos(folder, wanted, settings, SPLITS, questions_per_split, progress)
    # Reasoning is neither asked nor scored, so it should not change the benchmark's hash.
    rows = [Row.model_validate(row.model_dump(exclude={"reasoning"}, exclude_unset=True)) for row in made]
    numbered = [(int(Path(row.video).stem), row) for row in rows if (row.model_extra or {})["split"] in splits]
    return folder, [(number, row) for number, row in numbered if number < videos]


def _videos_there(folder: Path) -> int:
    try:
        return int(json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8"))["videos"])
    except (OSError, ValueError, LookupError, TypeError):
        # Nothing is there, or something that `make_videos` refuses by name.
        return 0
