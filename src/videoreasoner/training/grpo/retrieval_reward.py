"""A reward for key elements that is verified by retrieval.

The paper reinforces event and answer only, and leaves key elements to the cold start. Key elements can be checked all
the same: they are there to lead a text-image encoder to the event. The reward is the share of their keyframes that lie
inside the reference event. Keyframes are found by the search that inference uses.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from videoreasoner.retrieval.encoder import TextImageEncoder
from videoreasoner.retrieval.search import SearchedFrames, VideoSearch
from videoreasoner.settings import Settings
from videoreasoner.tasks import Task, parse_key_elements
from videoreasoner.training.grpo.rewards import Reward
from videoreasoner.video.reader import VideoReader

# The features of 768 frames of 512 dimensions are 1.5 MB; this bounds the cache at a few hundred MB.
_VIDEOS_KEPT = 256


class KeyElementRetrieval:
    """Scores key elements: see the module. The frames of a video are encoded once for all its completions.

    Args:
        encoder: finds the keyframes.
        settings: which frames are searched, and how many elements are looked for.
        open_video: opens a video, given its path or URL.
    """

    tasks = (Task.KEY_ELEMENTS,)

    def __init__(self, encoder: TextImageEncoder, settings: Settings, open_video: Callable[[str], VideoReader]) -> None:
        self._search = VideoSearch(encoder, settings)
        self._open_video = open_video
        self._searched: OrderedDict[str, SearchedFrames] = OrderedDict()

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
            elements = parse_key_elements(text)
            # A completion without elements needs no video.
            keyframes = self._search.keyframes(self._frames_of(columns["video"][i]), elements) if elements else []
            inside = sum(any(event.contains(keyframe.time_s) for event in events) for keyframe in keyframes)
            value = inside / len(keyframes) if keyframes else 0.0
            rewards.append(Reward(value, elements=len(keyframes), inside=inside))
        return rewards

    def _frames_of(self, name: str) -> SearchedFrames:
        if name in self._searched:
            self._searched.move_to_end(name)
            return self._searched[name]
        with self._open_video(name) as video:
            searched = self._search.search(video)
        self._searched[name] = searched
        if len(self._searched) > _VIDEOS_KEPT:
            self._searched.popitem(last=False)
        return searched
