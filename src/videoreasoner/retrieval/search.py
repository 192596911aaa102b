"""The search for texts in the frames of a video, for answers, for a reward and for `videoreasoner search` alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from videoreasoner.retrieval.encoder import TextImageEncoder
from videoreasoner.retrieval.keyframes import (
    Keyframe,
    Moment,
    SegmentScores,
    distinct_elements,
    find_moments,
    score_segments,
    select_keyframes,
)
from videoreasoner.retrieval.search_times import search_times
from videoreasoner.settings import SEARCH_SETTINGS, Settings
from videoreasoner.utils.stopwatch import Stopwatch
from videoreasoner.version import __version__
from videoreasoner.video.reader import VideoReader

# Most bytes of pixels that are handed to the encoder at a time: an hour of video is never in memory as a whole, nor are
# many 4K frames.
_BATCH_BYTES = 2**28
# Frames are not scaled down below this, however little an encoder takes: small videos are searched as they are.
_SMALLEST_SIDE = 224


@dataclass(frozen=True, eq=False)
class SearchedFrames:
    """The frames of one video that are searched.

    Attributes:
        times_s: float64[T], seconds, their true times, not decreasing.
        features: float32[T, D], rows of unit length, on the CPU.
        duration_s: length of the video in seconds.
    """

    times_s: NDArray[np.float64]
    features: torch.Tensor
    duration_s: float

    def __len__(self) -> int:
        return len(self.times_s)


@dataclass(frozen=True, eq=False)
class SearchResult:
    """When texts can be seen in one video.

    Attributes:
        video: path or URL.
        duration_s: its length in seconds.
        encoder: name of the text-image encoder.
        settings: the settings that decided the search.
        texts: N texts.
        moments: the best moments of each text, best first.
        segments: the scores of all texts in all segments, in the order of `texts`.
        frames_searched: how many frames were compared with the texts.
        notes: what could not be read or decoded, in sentences.
    """

    video: str
    duration_s: float
    encoder: str
    settings: dict[str, Any]
    texts: list[str]
    moments: list[list[Moment]]
    segments: SegmentScores
    frames_searched: int
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return {
            "video": self.video,
            "duration_s": self.duration_s,
            "encoder": self.encoder,
            "settings": self.settings,
            "frames_searched": self.frames_searched,
            "segment_times_s": self.segments.times_s.tolist(),
            "texts": [
                {"text": text, "moments": [asdict(moment) for moment in moments], "segment_scores": scores.tolist()}
                for text, moments, scores in zip(self.texts, self.moments, self.segments.scores, strict=True)
            ],
            "notes": self.notes,
            "version": __version__,
        }


class VideoSearch:
    """Finds texts in videos with one encoder.

    Args:
        encoder: turns texts and frames into features.
        settings: which frames are searched (see `search_times`), how many form a segment
            (`retrieval_segment_frames`), and for how many key elements keyframes are found.
        stopwatch: measures the encoder's time as the stage "retrieve".
    """

    def __init__(self, encoder: TextImageEncoder, settings: Settings, stopwatch: Stopwatch | None = None) -> None:
        self.encoder = encoder
        self.settings = settings
        self.stopwatch = stopwatch or Stopwatch()

    def times(self, video: VideoReader) -> NDArray[np.float64]:
        """float64[T], seconds, increasing: the times of the frames to search."""
        return search_times(video, self.settings)

    @property
    def short_side(self) -> int | None:
        """Pixels to which the shorter side of a frame is scaled down for the search; None for the full size."""
        if self.settings.retrieval_seek == "exact" or self.encoder.image_side is None:
            return None
        return max(_SMALLEST_SIDE, self.encoder.image_side)

    def encode(self, frames: Iterable[tuple[float, NDArray[np.uint8]]], duration_s: float) -> SearchedFrames:
        """Encode frames in batches of bounded size.

        Args:
            frames: true time in seconds and uint8[H, W, 3] of each frame, at least one, in the order of time.
            duration_s: length of their video in seconds.
        """
        times: list[float] = []
        features: list[torch.Tensor] = []
        batch: list[NDArray[np.uint8]] = []

        def encode_batch() -> None:
            with self.stopwatch.stage("retrieve"):
                features.append(self.encoder.encode_images(np.stack(batch)))
            batch.clear()

        for time_s, image in frames:
            times.append(time_s)
            batch.append(image)
            if len(batch) * image.nbytes >= _BATCH_BYTES:
                encode_batch()
        if batch:
            encode_batch()
        return SearchedFrames(np.asarray(times), torch.cat(features), duration_s)

    def search(self, video: VideoReader) -> SearchedFrames:
        """Decode and encode the frames of a video that are to be searched.

        Raises:
            VideoError: the video holds no usable frame.
        """
        return self.encode(video.iter_frames_at(self.times(video), "exact", self.short_side), video.duration_s)

    def score(self, searched: SearchedFrames, texts: Sequence[str]) -> SegmentScores:
        """Compare each text with each segment of the searched frames; row e of the scores belongs to `texts[e]`."""
        with self.stopwatch.stage("retrieve"):
            return score_segments(
                self.encoder.encode_texts(texts),
                searched.features,
                searched.times_s,
                segment_frames=self.settings.retrieval_segment_frames,
                duration_s=searched.duration_s,
            )

    def keyframes(self, searched: SearchedFrames, elements: Sequence[str]) -> list[Keyframe]:
        """One keyframe for each of the first `max_key_elements` distinct elements, highest score first."""
        looked_for = distinct_elements(elements)[: self.settings.max_key_elements]
        return select_keyframes(self.score(searched, looked_for), looked_for) if looked_for else []

    def find(self, video: VideoReader, texts: Sequence[str], most: int) -> SearchResult:
        """When each text can be seen in a video.

        Args:
            video: the open video.
            texts: what to look for.
            most: how many moments to return for each text at most.

        Raises:
            VideoError: the video holds no usable frame.
        """
        searched = self.search(video)
        segments = self.score(searched, texts)
        return SearchResult(
            video=video.name,
            duration_s=video.duration_s,
            encoder=self.encoder.name,
            settings={name: getattr(self.settings, name) for name in SEARCH_SETTINGS},
            texts=list(texts),
            moments=[find_moments(segments, row, most) for row in range(len(texts))],
            segments=segments,
            frames_searched=len(searched),
            notes=video.problems,
        )
