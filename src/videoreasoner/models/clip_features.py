"""Features of a video's frame pairs, each computed once.

Qwen-VL's vision attention never crosses temporal patches, so the feature of a pair depends on that pair alone: what
one pass encoded serves every later pass over the same video, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from videoreasoner.models.positions import ClipTokens, temporal_indices
from videoreasoner.utils.stopwatch import Stopwatch
from videoreasoner.video.patches import PatchSettings, patchify, resize
from videoreasoner.video.reader import VideoReader
from videoreasoner.video.sampling import PAIR, FramePlan

# Bounds the activations of the vision tower; the result does not depend on it.
_PAIRS_AT_ONCE = 32


@dataclass(frozen=True, eq=False)
class EncodedClip:
    """What a language model gets of a video.

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
    """The pair features of one video under one model, filled as passes ask for them.

    Attributes:
        frames_decoded, pairs_encoded: how much work was done so far.
    """

    model: Any
    video: VideoReader
    patches: PatchSettings
    tokens_per_second: float | None
    stopwatch: Stopwatch
    frames_decoded: int = 0
    pairs_encoded: int = 0
    _pairs: dict[tuple[float, ...], _Pair] = field(default_factory=dict)
    # Decoded ahead and not encoded yet: the wanted time -> the true one, and the resized frame.
    _ahead: dict[float, tuple[float, Tensor]] = field(default_factory=dict)
    _grid: tuple[int, int] = (0, 0)

    def encode(self, plan: FramePlan) -> EncodedClip:
        """Features of the plan's pairs; only pairs that no earlier plan had are decoded and encoded.

        Raises:
            VideoError: the video holds no usable frame, or its frames are absurdly long and thin.
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

    def decode_ahead(
        self, plan: FramePlan, also_s: NDArray[np.float64], short_side: int | None = None
    ) -> Iterator[tuple[float, NDArray[np.uint8]]]:
        """Decode the plan's new frames, and on the way those that someone else wants: one run through the video.

        Args:
            also_s: float64[T], seconds, each once.
            short_side: the frames at `also_s` are scaled down to it (see `VideoFile.frames_at`), the plan's are not.

        Yields:
            True time and uint8[H, W, 3] of the frame at each of `also_s`, in the order of time. The plan's frames are
            kept for `encode`.

        Raises:
            VideoError: the video holds no usable frame.
        """
        mine = {t for pair in plan.pairs_s.tolist() if tuple(pair) not in self._pairs for t in pair} - set(self._ahead)
        others = set(also_s.tolist())
        # A frame that both want is decoded once, and given once for each.
        wanted = sorted([(time_s, True) for time_s in mine] + [(time_s, False) for time_s in others])
        decoding: Iterator[tuple[float, NDArray[np.uint8]]] = iter(())
        if wanted:
            sides = [None if is_mine else short_side for _, is_mine in wanted]
            decoding = self.video.iter_frames_at([time_s for time_s, _ in wanted], "exact", sides)
        frames = zip(wanted, decoding, strict=True)
        while True:
            with self.stopwatch.stage("decode"):
                found = next(frames, None)
                if found is None:
                    return
                (asked, is_mine), decoded = found
                if is_mine:
                    self._ahead[asked] = self._resized(decoded)
            if not is_mine:
                yield decoded

    @torch.inference_mode()
    def _encode(self, pairs: Sequence[tuple[float, ...]]) -> None:
        wanted = [time_s for pair in pairs for time_s in pair]
        with self.stopwatch.stage("decode"):
            # Resized one by one: a hundred frames of a 4K video would not fit into memory together.
            missing = [time_s for time_s in wanted if time_s not in self._ahead]
            decoded = map(self._resized, self.video.iter_frames_at(missing)) if missing else iter(())
            frames = [self._ahead[time_s] if time_s in self._ahead else next(decoded) for time_s in wanted]
            for time_s in wanted:
                self._ahead.pop(time_s, None)
        with self.stopwatch.stage("encode"):
            patches = patchify(torch.cat([frame for _, frame in frames]), self.patches)
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
            self._pairs[pair] = _Pair(features[i], tuple(t for t, _ in frames[PAIR * i : PAIR * (i + 1)]))
        self.frames_decoded += len(wanted)
        self.pairs_encoded += len(pairs)

    def _resized(self, decoded: tuple[float, NDArray[np.uint8]]) -> tuple[float, Tensor]:
        time_s, image = decoded
        return time_s, resize(image[np.newaxis], self.patches)
