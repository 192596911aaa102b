"""Fit what the shipped checkpoints know about their own world: `familiarity.json` beside their weights.

    python -m experiments.tiny.familiarity [folder of a checkpoint, ...]

One half of the videos fits the plane, the other half, of other seeds, sets the limit. They cover what `synthetic make`
can write: sizes, details, numbers of events and distractors, frame rates and distances of key frames. They are short,
because a frame does not show how long its video is.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor

from videoreasoner.models.checkpoint import SHIPPED, Checkpoint, load_checkpoint
from videoreasoner.models.clip_features import ClipFeatures
from videoreasoner.models.familiarity import Familiarity
from videoreasoner.synthetic.videos import VideoSettings, video_world, write_video
from videoreasoner.synthetic.world import WorldSettings
from videoreasoner.utils.stopwatch import Stopwatch
from videoreasoner.video.pyav.file import VideoFile
from videoreasoner.video.reader import VideoReader
from videoreasoner.video.sampling import uniform_plan

_SEED = 20261124
FAMILIAR_VIDEOS = 240
_DIRECTIONS = 16
# Between the farthest synthetic video, at 1, and the nearest real one, at about 2.
_ROOM = 1.4
_WARNING = (
    "This video does not look like the synthetic videos that tiny was trained on, so its answer means nothing. "
    "Use --model with a checkpoint for real footage."
)


def random_settings(rng: np.random.Generator) -> VideoSettings:
    """Any kind of video that `synthetic make` writes, but a short one."""
    fps = float(rng.choice([8, 10, 25]))
    duration_s = float(rng.choice([6, 8, 16]))
    world = WorldSettings(
        events=((1, 3), (2, 3), (1, 1), (3, 4))[rng.integers(4)],
        event_share=((0.12, 0.35), (0.15, 0.2))[rng.integers(2)],
        detail=rng.choice(["color", "digit"]),
        detail_share=float(rng.choice([0.035, 0.05])),
        distractors=int(rng.choice([0, 1, 1, 1, 2, 4, 8])),
    )
    return VideoSettings(
        duration_s=duration_s,
        fps=fps,
        size=int(rng.choice([16, 32, 48, 64, 96, 96, 96, 160, 224, 240, 360])),
        seed=int(rng.integers(1, 2**31)),
        subset=rng.choice(["train", "held_out"]),
        world=world,
        gop_s=float(rng.choice([0.5, 1, 5, 10])),
    )


def pair_features(checkpoint: Checkpoint, video: VideoReader) -> Tensor:
    """float[P, N, D]: the visual tokens of the pairs of the first pass over a video."""
    plan = uniform_plan(video.duration_s, checkpoint.settings.sampling)
    features = ClipFeatures(checkpoint.model, video, checkpoint.patches, checkpoint.tokens_per_second, Stopwatch())
    encoded = features.encode(plan).features
    return encoded.view(len(plan), -1, encoded.shape[-1])


def fit_familiarity(folder: Path, videos: int = FAMILIAR_VIDEOS, report: Callable[[str], None] = print) -> Familiarity:
    """Fit the plane and the limit for the checkpoint in a folder, and write them there."""
    checkpoint = load_checkpoint(folder, "cpu")
    rng = np.random.default_rng(_SEED)
    found: list[Tensor] = []
    with TemporaryDirectory() as scratch:
        path = Path(scratch) / "video.mp4"
        for _ in range(videos):
            settings = random_settings(rng)
            write_video(path, video_world(settings, 0), settings)
            with VideoFile(path) as video:
                found.append(pair_features(checkpoint, video))
    half = videos // 2
    fitted = Familiarity.fit(torch.cat(found[:half]), _DIRECTIONS, 1.0, _WARNING)
    farthest = max(map(fitted.distance, found[half:]))
    result = fitted.model_copy(update={"limit": round(_ROOM * farthest, 2)})
    result.save(folder)
    report(f"{folder.name}: {videos - half} videos of other seeds are at most {farthest:.2f} from the plane")
    return result


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in sys.argv[1:] or [str(SHIPPED / "tiny-base"), str(SHIPPED / "tiny")]:
        fit_familiarity(Path(name))
