"""Pictures of a video at given times, small enough to be part of a page."""

from __future__ import annotations

import base64
import io
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from PIL import Image

from videoreasoner.video.reader import VideoReader

# Longest side in pixels and WebP quality, best first; the first size that fits is taken.
_SIZES = ((320, 80), (320, 65), (256, 60), (192, 55), (160, 45), (128, 40), (96, 30), (64, 20))
_SAMPLE = 8
_PREFIX = "data:image/webp;base64,"


@dataclass(frozen=True)
class PagePicture:
    """A picture as a page holds it.

    Attributes:
        uri: a data URI.
        width, height: pixels.
    """

    uri: str
    width: int
    height: int


def take_pictures(video: VideoReader, uses: Mapping[float, int], limit_bytes: int) -> dict[float, PagePicture]:
    """The video at some times, as large and as good as the limit allows.

    Args:
        video: the video.
        uses: seconds of each picture, and how often it stands in the page.
        limit_bytes: most characters of all data URIs together.

    Returns:
        A picture for each time. Where even the smallest ones are too many, evenly spaced times are left out.

    Raises:
        VideoError: the video can no longer be decoded.
    """
    if not uses:
        return {}
    times = sorted(uses)
    side = _SIZES[0][0]
    images: dict[float, Image.Image] = {}
    # One frame at a time, and scaled while it is decoded: a page of 4K frames would be gigabytes.
    for time_s, (_, pixels) in zip(times, video.iter_frames_at(times, short_side=side), strict=True):
        images[time_s] = Image.fromarray(pixels)
        images[time_s].thumbnail((side, side), Image.Resampling.LANCZOS)
    for side, quality in _SIZES[_first_size(images, uses, limit_bytes) :]:
        pictures = {time_s: _picture(image, side, quality) for time_s, image in images.items()}
        size = _size(pictures, uses)
        if size <= limit_bytes:
            return pictures
    kept = int(len(times) * limit_bytes / size)
    while kept > 0:
        chosen = {times[int((i + 0.5) * len(times) / kept)] for i in range(kept)}
        left = {time_s: picture for time_s, picture in pictures.items() if time_s in chosen}
        if _size(left, uses) <= limit_bytes:
            return left
        kept = kept * 9 // 10
    return {}


def count_uses(*times_s: Collection[float]) -> dict[float, int]:
    """How often each time occurs in all collections together."""
    uses: dict[float, int] = {}
    for collection in times_s:
        for time_s in collection:
            uses[time_s] = uses.get(time_s, 0) + 1
    return uses


def _first_size(images: Mapping[float, Image.Image], uses: Mapping[float, int], limit_bytes: int) -> int:
    """The first size that seems to fit, judged by a few pictures, because compressing hundreds takes seconds."""
    few = list(images)[:: max(1, len(images) // _SAMPLE)]
    share = sum(uses[time_s] for time_s in few) / sum(uses.values())
    for number, (side, quality) in enumerate(_SIZES[:-1]):
        if _size({time_s: _picture(images[time_s], side, quality) for time_s in few}, uses) <= limit_bytes * share:
            return number
    return len(_SIZES) - 1


def _size(pictures: Mapping[float, PagePicture], uses: Mapping[float, int]) -> int:
    return sum(uses[time_s] * len(picture.uri) for time_s, picture in pictures.items())


def _picture(image: Image.Image, side: int, quality: int) -> PagePicture:
    small = image.copy()
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    encoded = io.BytesIO()
    small.save(encoded, "WEBP", quality=quality, method=4)
    return PagePicture(_PREFIX + base64.b64encode(encoded.getvalue()).decode(), small.width, small.height)
