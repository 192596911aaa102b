"""A video -> the frames that training uses, resized, with their true times. Decoded frames may be cached."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from videoreasoner.errors import RowError
from videoreasoner.models.checkpoint import Checkpoint
from videoreasoner.models.positions import ClipTokens, temporal_indices
from videoreasoner.settings import Settings
from videoreasoner.training.data.cache import ArrayCache
from videoreasoner.training.recipe import Recipe
from videoreasoner.video.isolated.file import DEFAULT_TIME_LIMIT_S, GuardedVideoFile
from videoreasoner.video.patches import PatchSettings, resize, resized_size
from videoreasoner.video.reader import VideoReader
from videoreasoner.video.sampling import PAIR, FramePlan, SamplingSettings, uniform_plan


@dataclass(frozen=True)
class VideoFacts:
    """What a frame plan depends on: seconds and pixels, upright.

    `key_times_s` is empty unless the settings ask for key frames.
    """

    duration_s: float
    width: int
    height: int
    key_times_s: tuple[float, ...] = ()


@dataclass(frozen=True, eq=False)
class Clip:
    """The frames of one video that a row shows.

    Attributes:
        frames: uint8[T, 3, H, W], resized; T is even.
        times_s: float64[T], when each is truly first shown.
        is_reduced: whether the token budget left fewer frames than the settings ask for.
        decode_s: seconds it took to get them.
    """

    frames: Tensor
    times_s: NDArray[np.float64]
    is_reduced: bool
    decode_s: float

    def tokens(self, patches: PatchSettings, tokens_per_second: float | None) -> ClipTokens:
        """Their place in a trunk."""
        starts = self.times_s[::PAIR].tolist()
        factor = patches.factor
        height, width = self.frames.shape[2] // factor, self.frames.shape[3] // factor
        return ClipTokens(height, width, temporal_indices(starts, tokens_per_second))


def tokens_per_pair(facts: VideoFacts, patches: PatchSettings) -> int:
    """Visual tokens of one pair of frames.

    Raises:
        VideoError: the frames are absurdly long and thin.
    """
    height, width = resized_size(facts.height, facts.width, patches)
    return (height // patches.factor) * (width // patches.factor)


def plan_within(
    facts: VideoFacts, sampling: SamplingSettings, patches: PatchSettings, max_tokens: int
) -> FramePlan | None:
    """The uniform plan with as many frame pairs as the token budget allows; None when it allows none.

    Whole frames are left out; the remaining frames keep all their visual tokens.
    """
    plan = uniform_plan(facts.duration_s, sampling, facts.key_times_s)
    most_pairs = max_tokens // tokens_per_pair(facts, patches)
    if most_pairs < 1:
        return None
    if len(plan) <= most_pairs:
        return plan
    return uniform_plan(facts.duration_s, replace(sampling, frame_budget=PAIR * most_pairs), facts.key_times_s)


class ClipReader:
    """Reads videos the way one checkpoint looks at them, through a cache if there is one.

    Args:
        time_limit_s: most seconds that one look into a video may take.
    """

    def __init__(
        self,
        settings: Settings,
        patches: PatchSettings,
        time_limit_s: float = DEFAULT_TIME_LIMIT_S,
        cache: ArrayCache | None = None,
    ) -> None:
        self.settings, self.patches = settings, patches
        self.time_limit_s, self.cache = time_limit_s, cache

    @contextmanager
    def open(self, source: str) -> Iterator[CachedVideo]:
        """A video, closed when the block ends.

        Raises:
            VideoError: it cannot be used, or took longer than the time limit.
        """
        video = CachedVideo(self, source)
        try:
            yield video
        finally:
            video.close()


def clip_reader(recipe: Recipe, checkpoint: Checkpoint) -> ClipReader:
    """Videos as a checkpoint looks at them, through the frame cache of a recipe if it has one.

    Raises:
        SettingError: the folder of the cache cannot be used.
    """
    cache = None
    if recipe.frame_cache_dir is not None:
        cache = ArrayCache(Path(recipe.frame_cache_dir), int(recipe.frame_cache_gb * 1e9))
    return ClipReader(checkpoint.settings, checkpoint.patches, recipe.decode_time_limit_s, cache)


class CachedVideo:
    """One video behind the cache; the file is opened only for what the cache does not hold."""

    def __init__(self, reader: ClipReader, source: str) -> None:
        self._reader, self._source = reader, source
        self._identity = _identity(source)
        self._opened: VideoReader | None = None
        self._decode_s = 0.0
        self.facts = self._facts()

    def close(self) -> None:
        if self._opened is not None:
            self._opened.close()

    def read(self, max_length: int, text: int) -> Clip:
        """The frames that a row shows: as many as leave it at most `max_length` tokens, `text` of them not visual.

        Raises:
            RowError: not even one pair fits.
            VideoError: as for `ClipReader.open`.
        """
        sampling, patches, cache = self._reader.settings.sampling, self._reader.patches, self._reader.cache
        started = time.perf_counter()
        plan = plan_within(self.facts, sampling, patches, max_length - text)
        if plan is None:
            raise RowError(
                f"its text leaves {max(max_length - text, 0)} of max_length {max_length} tokens for frames, less than "
                "a pair; raise max_length or lower settings.max_pixels"
            )
        key = (*self._identity, plan.times_s.tolist(), asdict(patches))
        found = cache.get(*key) if cache else None
        if found is None:
            found = self._decode(plan)
            if cache:
                cache.put(found, *key)
        is_reduced = len(plan) < len(uniform_plan(self.facts.duration_s, sampling))
        decode_s = self._decode_s + time.perf_counter() - started
        return Clip(torch.from_numpy(found["frames"]), found["times_s"], is_reduced, decode_s)

    def _facts(self) -> VideoFacts:
        cache, settings = self._reader.cache, self._reader.settings
        key = (*self._identity, settings.sparse_seek)
        found = cache.get(*key) if cache else None
        if found is None:
            started = time.perf_counter()
            video = self._video()
            keys = video.key_times_s if settings.sparse_seek == "keyframe" else ()
            found = {
                "facts": np.array([video.duration_s, video.width, video.height]),
                "key_times_s": np.array(keys, np.float64),
            }
            if cache:
                cache.put(found, *key)
            self._decode_s += time.perf_counter() - started
        duration_s, width, height = found["facts"].tolist()
        return VideoFacts(duration_s, int(width), int(height), tuple(found["key_times_s"].tolist()))

    def _video(self) -> VideoReader:
        if self._opened is None:
            self._opened = GuardedVideoFile(self._source, self._reader.time_limit_s)
        return self._opened

    def _decode(self, plan: FramePlan) -> dict[str, NDArray[Any]]:
        times: list[float] = []
        frames: list[Tensor] = []
        # Resized one by one: a hundred frames of a 4K video would not fit into memory together.
        for time_s, image in self._video().iter_frames_at(plan.times_s):
            times.append(time_s)
            frames.append(resize(image[np.newaxis], self._reader.patches))
        return {"frames": torch.cat(frames).numpy(), "times_s": np.array(times)}


def _identity(source: str) -> tuple[Any, ...]:
    """The cache key of a video: path, size and time of a file, so that another file in its place has another key; or
    the URL alone."""
    try:
        stat = os.stat(source)
    except (OSError, ValueError):
        return (source,)
    return os.path.abspath(source), stat.st_size, stat.st_mtime_ns
