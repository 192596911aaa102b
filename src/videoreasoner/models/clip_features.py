"""Features of a film's frame pairs, each computed once.

Qwen-VL's vision attention never crosses temporal patches, so the feature of a pair depends on that pair alone: what
one pass encoded serves every later pass over the same film, bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from videoreasoner.models.positions import ClipTokens, temporal_indices
from videoreasoner.stopwatch import Stopwatch
from videoreasoner.video.file import VideoFile
from videoreasoner.video.patches import PatchSettings, patchify, resize
from videoreasoner.video.sampling import PAIR, FramePlan

# Bounds the activations of the vision tower; the result does not depend on it.
_PAIRS_AT_ONCE = 32


@dataclass(frozen=True, eq=False)
class EncodedClip:
    """What a language model gets of a film.

    Attributes:
        features: float[P * H * W, D], one row a visual token.
        tokens: their place in a trunk.
        frame_times_s: true time of each of the 2 P frames, in order.
    """

    features: Tensor
    tokens: ClipTokens
    frame_times_s: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class _Pair:
    features: Tensor
    times_s: tuple[float, ...]


@dataclass
class ClipFeatures:
    """The pair features of one film under one model, filled as passes ask for them.

    Attributes:
        frames_decoded, pairs_encoded: how much work was done so far.
    """

    model: Any
    video: VideoFile
    patches: PatchSettings
    tokens_per_second: float | None
    stopwatch: Stopwatch
    frames_decoded: int = 0
    pairs_encoded: int = 0
    _pairs: dict[tuple[float, ...], _Pair] = field(default_factory=dict)
    _grid: tuple[int, int] = (0, 0)

    def encode(self, plan: FramePlan) -> EncodedClip:
        """Features of the plan's pairs; only pairs that no earlier plan had are decoded and encoded.

        Raises:
            VideoError: the film holds no usable frame, or its frames are absurdly long and thin.
        """
        wanted = [tuple(pair) for pair in plan.pairs_s.tolist()]
        new = [pair for pair in dict.fromkeys(wanted) if pair not in self._pairs]
        for first in range(0, len(new), _PAIRS_AT_ONCE):
            self._encode(new[first : first + _PAIRS_AT_ONCE])
        pairs = [self._pairs[pair] for pair in wanted]
        starts = [pair.times_s[0] for pair in pairs]
        return EncodedClip(
            torch.cat([pair.features for pair in pairs]),
            ClipTokens(*self._grid, temporal_indices(starts, self.tokens_per_second)),
            tuple(time_s for pair in pairs for time_s in pair.times_s),
        )

    @torch.inference_mode()
    def _encode(self, pairs: Sequence[tuple[float, ...]]) -> None:
        wanted = [time_s for pair in pairs for time_s in pair]
        with self.stopwatch.stage("decode"):
            times: list[float] = []
            frames: list[Tensor] = []
            # Resized one by one: a hundred frames of a 4K film would not fit into memory together.
            for time_s, image in self.video.iter_frames_at(wanted):
                times.append(time_s)
                frames.append(resize(image[np.newaxis], self.patches))
        with self.stopwatch.stage("encode"):
            patches = patchify(torch.cat(frames), self.patches)
            weight = next(self.model.model.visual.parameters())
            encoded = self.model.model.get_video_features(
                patches.pixel_values.to(weight.device, weight.dtype),
                torch.tensor([patches.grid], device=weight.device),
                return_dict=True,
            ).pooler_output
            features = torch.cat(list(encoded)).view(len(pairs), -1, encoded[0].shape[-1])
        merge = self.patches.merge_size
        self._grid = (patches.grid[1] // merge, patches.grid[2] // merge)
        for i, pair in enumerate(pairs):
            self._pairs[pair] = _Pair(features[i], tuple(times[PAIR * i : PAIR * (i + 1)]))
        self.frames_decoded += len(wanted)
        self.pairs_encoded += len(pairs)
