"""The page of a search: sound HTML, right curves, small, and readable in a browser."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.browser import visit
from tests.inference.report.test_answer_page import PageReader
from tests.video.videos import Recipe
from videoreasoner.inference.report.pictures import PagePicture, count_uses, take_pictures
from videoreasoner.inference.report.search_page import render_search, text_lanes, write_search_report
from videoreasoner.retrieval.keyframes import SegmentScores, find_moments
from videoreasoner.retrieval.search import SearchResult
from videoreasoner.settings import Settings
from videoreasoner.video.pyav.file import VideoFile

MARKUP = "<b onclick=x()>&amp;</b>"


def result_of(scores: np.ndarray, texts: list[str], video: str = "video.mp4", duration_s: float = 2.0) -> SearchResult:
    edges = np.linspace(0, duration_s, scores.shape[1] + 1)
    segments = SegmentScores(scores, (edges[:-1] + edges[1:]) / 2, edges[:-1], edges[1:])
    moments = [find_moments(segments, row, 3) for row in range(len(texts))]
    settings = {"retrieval_rate_fps": Settings().retrieval_rate_fps}
    return SearchResult(video, duration_s, "tiny-encoder", settings, texts, moments, segments, scores.shape[1], [])


RESULT = result_of(np.array([[0.0, 0.5, 0.4, 0.0], [0.1, 0.1, 0.1, 0.3]]), ["a red circle", MARKUP])


def test_all_curves_have_one_scale_and_lie_in_the_picture() -> None:
    first, second = text_lanes(RESULT)
    assert first.points == "12.50,53.0 37.50,3.0 62.50,13.0 87.50,53.0"
    assert second.points == "12.50,43.0 37.50,43.0 62.50,43.0 87.50,23.0"
    assert (first.lowest, first.highest) == (0.0, 0.5)
    assert [moment.time_s for moment in first.moments] == [0.75]


@pytest.mark.parametrize("scores", [np.full((1, 1), 0.2), np.full((1, 5), -0.2), np.zeros((1, 1))], ids=str)
def test_a_video_in_which_nothing_differs_has_a_flat_curve(scores: np.ndarray) -> None:
    [lane] = text_lanes(result_of(scores, ["x"]))
    points = [point.split(",") for point in lane.points.split()]
    assert len(points) >= 2
    assert len({y for _, y in points}) == 1


def test_a_long_curve_keeps_its_peaks() -> None:
    scores = np.zeros((1, 5000))
    scores[0, 1234] = 1.0
    [lane] = text_lanes(result_of(scores, ["x"]))
    ys = [float(point.split(",")[1]) for point in lane.points.split()]
    assert len(ys) == 400
    assert min(ys) == 3.0
    assert ys.count(3.0) == 1


def test_the_page_is_sound_and_markup_stays_text() -> None:
    picture = PagePicture("data:image/webp;base64,AAAA", 4, 3)
    page = PageReader(render_search(RESULT, {0.75: picture}))
    assert page.count("h1") == 1
    assert page.count("script") == 0
    assert page.count("figure") == sum(map(len, RESULT.moments)) == 2
    assert page.count("img", src=picture.uri) == 1
    assert page.count("polyline") == 2
    assert "no picture" in page.text
    assert MARKUP in page.text
    assert "0.5 s to 1.5 s 0.500" in page.text


def test_the_largest_page_stays_below_a_megabyte(tmp_path: Path) -> None:
    path = Recipe("video.mp4", count=50, size=(320, 240)).make(tmp_path)
    scores = np.random.default_rng(0).uniform(size=(32, 5000))
    result = result_of(scores, [f"{i} " + "word " * 199 for i in range(32)], str(path))
    result.moments[:] = [find_moments(result.segments, row, 20) for row in range(32)]
    with VideoFile(path) as video:
        write_search_report(result, tmp_path / "page.html", video)
    assert 100_000 < (tmp_path / "page.html").stat().st_size < 1_000_000


@pytest.mark.parametrize("flags", [[], ["--blink-settings=preferredColorScheme=0"]], ids=["light", "dark"])
def test_a_browser_shows_all_of_it_at_every_width(tmp_path: Path, flags: list[str]) -> None:
    uses = count_uses([moment.time_s for moments in RESULT.moments for moment in moments])
    with VideoFile(Recipe("video.mp4", count=50).make(tmp_path)) as video:
        page = render_search(RESULT, take_pictures(video, uses, 500_000))
    seen = visit(tmp_path, {"search": page}, (360, 1200), *flags)
    assert seen.console == []
    for found in seen.found:
        assert found["loaded"] == found["sticking_out"] == []
        assert found["scroll_width"] <= found["width"]
        assert (found["images"], found["bad_images"], found["unlabelled"], found["scripts"]) == (2, 0, 0, 0)
        assert found["least_contrast"] >= 4.5
        assert "a red circle" in found["text"]
