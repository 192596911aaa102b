"""The page of a search: when each text can be seen in a video, as a curve and as pictures."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from videoreasoner.inference.report.document import render_template, write_page
from videoreasoner.inference.report.pictures import PagePicture, count_uses
from videoreasoner.inference.report.timeline import percent
from videoreasoner.retrieval.keyframes import Moment
from videoreasoner.retrieval.search import SearchResult
from videoreasoner.video.reader import VideoReader

# A page is not wide enough to show more points, and more would only make it larger.
_MOST_POINTS = 400
_CURVE_HEIGHT = 56


@dataclass(frozen=True)
class TextLane:
    """What the page shows of one text.

    Attributes:
        text: the text.
        moments: its best moments, best first.
        points: its similarity as points of an SVG polyline; x in percent of the video, y in pixels from the top.
        lowest, highest: its lowest and highest similarity.
    """

    text: str
    moments: list[Moment]
    points: str
    lowest: float
    highest: float


def write_search_report(result: SearchResult, path: str | os.PathLike[str], video: VideoReader) -> None:
    """Write the page of a search: the whole file, or nothing if anything fails.

    Args:
        result: what is shown.
        path: the file; it is replaced if it exists.
        video: the searched video, open, for the pictures.

    Raises:
        VideoError: the video can no longer be decoded.
        SettingError: the file cannot be written.
    """
    uses = count_uses([moment.time_s for moments in result.moments for moment in moments])
    write_page(path, video, uses, lambda pictures: render_search(result, pictures))


def render_search(result: SearchResult, pictures: Mapping[float, PagePicture]) -> str:
    """The page as HTML. The same arguments give the same page.

    Args:
        result: what is shown.
        pictures: by seconds; times that are not there are shown without a picture.
    """
    return render_template(
        "search.html",
        result.video,
        result.duration_s,
        pictures,
        result=result,
        lanes=text_lanes(result),
        height=_CURVE_HEIGHT,
        percent=lambda time_s: percent(time_s, result.duration_s),
    )


def text_lanes(result: SearchResult) -> list[TextLane]:
    """One lane for each text. All curves have the same scale, so that they can be compared."""
    segments = result.segments
    lowest, highest = float(segments.scores.min()), float(segments.scores.max())
    # A video in which nothing differs has a flat curve.
    span = highest - lowest or 1.0
    lanes = []
    for text, moments, scores in zip(result.texts, result.moments, segments.scores, strict=True):
        borders = np.linspace(0, len(scores), min(len(scores), _MOST_POINTS) + 1).astype(int)
        points = []
        for first, end in pairwise(borders):
            # Of the segments that share a point, the best one is shown.
            best = first + int(np.argmax(scores[first:end]))
            x = percent(float(segments.times_s[best]), result.duration_s)
            y = 3 + (_CURVE_HEIGHT - 6) * (highest - float(scores[best])) / span
            points.append(f"{x:.2f},{y:.1f}")
        if len(points) == 1:
            # One segment: a line over the whole video.
            y_text = points[0].partition(",")[2]
            points = [f"0,{y_text}", f"100,{y_text}"]
        lanes.append(TextLane(text, moments, " ".join(points), float(scores.min()), float(scores.max())))
    return lanes
