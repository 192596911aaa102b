"""A reward for key elements that is verified by retrieval.

The paper reinforces event and answer alone, and leaves key elements to the cold start. What makes key elements good
can be checked, though: they are there to lead a text-image encoder to the event. So the reward is the share of the
keyframes retrieved for them that lie inside the reference event. One is retrieved for each element, as in inference.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from videoreasoner.retrieval.encoder import TextImageEncoder
from videoreasoner.retrieval.keyframes import retrieval_times, select_keyframes
from videoreasoner.settings import Settings
from videoreasoner.tasks import Task, parse_key_elements
from videoreasoner.training.grpo.rewards import Reward

# 768 frames of 512 dimensions are 1.5 MB; this bounds the cache at a few hundred MB.
_VIDEOS_KEPT = 256
_FRAMES_AT_ONCE = 32

Searched = tuple[NDArray[np.float64], torch.Tensor]
"""Times float64[T] in seconds and features float32[T, D] of the frames of a video that are searched."""


class KeyElementRetrieval:
    """See the module. Frames of a video are encoded once, however many completions are scored on it.

    Args:
        encoder: finds the keyframes.
        settings: which frames are searched, and how many elements are looked for.
        frames: (video, times in seconds) -> pairs of (true time in seconds, uint8[H, W, 3]).
    """

    tasks = (Task.KEY_ELEMENTS,)
    field = Task.EVENT

    def __init__(
        self,
        encoder: TextImageEncoder,
        settings: Settings,
        frames: Callable[[str, Sequence[float]], Any],
    ) -> None:
        self.encoder = encoder
        self.settings = settings
        self.frames = frames
        self._videos: OrderedDict[str, Searched] = OrderedDict()

    def __call__(
        self,
        prompts: list[str],
        completions: list[str],
        completion_ids: list[list[int]],
        **columns: list[Any],
    ) -> list[Reward | None]:
        """None for other tasks and for rows without an event."""
        rewards: list[Reward | None] = []
        for i, text in enumerate(completions):
            events = columns["event"][i]
            if columns["task"][i] not in self.tasks or not events:
                rewards.append(None)
                continue
            elements = parse_key_elements(text)[: self.settings.max_key_elements]
            times = self._keyframe_times(columns["video"][i], columns["duration"][i], elements)
            inside = sum(any(event.contains(time_s) for event in events) for time_s in times)
            rewards.append(Reward(inside / len(times) if times else 0.0, elements=len(times), inside=inside))
        return rewards

    def _keyframe_times(self, video: str, duration_s: float, elements: Sequence[str]) -> list[float]:
        if not elements:
            return []
        times, images = self._searched(video, duration_s)
        keyframes = select_keyframes(
            self.encoder.encode_texts(elements),
            images,
            times,
            elements,
            segment_frames=self.settings.retrieval_segment_frames,
            max_elements=self.settings.max_key_elements,
            duration_s=duration_s,
        )
        return [keyframe.time_s for keyframe in keyframes]

    def _searched(self, video: str, duration_s: float) -> Searched:
        if video in self._videos:
            self._videos.move_to_end(video)
            return self._videos[video]
        settings = self.settings
        wanted = retrieval_times(duration_s, settings.retrieval_rate_fps, settings.retrieval_max_frames)
        times: list[float] = []
        features: list[torch.Tensor] = []
        images: list[NDArray[np.uint8]] = []
        for time_s, image in self.frames(video, wanted.tolist()):
            times.append(time_s)
            images.append(image)
            if len(images) == _FRAMES_AT_ONCE:
                features.append(self.encoder.encode_images(np.stack(images)))
                images.clear()
        if images:
            features.append(self.encoder.encode_images(np.stack(images)))
        self._videos[video] = np.asarray(times), torch.cat(features)
        if len(self._videos) > _VIDEOS_KEPT:
            self._videos.popitem(last=False)
        return self._videos[video]
