"""The page as a browser shows it: wide and narrow, light and dark."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.browser import Visit, visit
from tests.inference.report.answers import ANSWER, CASES, MARKUP, MARKUP_NAME, TRUTH
from tests.video.videos import Recipe
from videoreasoner.inference.report.answer_page import render
from videoreasoner.inference.report.pictures import count_uses, take_pictures
from videoreasoner.video.pyav.file import VideoFile

PAGES = ("usual", "direct", "200 keyframes", "long question", "one very long word", "markup", "an hour", "26 options")
WIDTHS = (360, 1200)
# WCAG 2.2, success criterion 1.4.3.
LEAST_CONTRAST = 4.5
BAD_PAGE = """<!doctype html><link rel="icon" href="data:,"><p style="color:#aaa;width:2000px;text-align:right">pale</p>
<img src="missing.png"><script>console.error("bad page")</script>"""


@pytest.fixture(scope="module", params=["light", "dark"])
def seen(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Visit:
    folder = tmp_path_factory.mktemp("pages")
    pages = {}
    with VideoFile(Recipe("video.mp4", count=50).make(folder)) as video_file:
        for name in PAGES:
            answer = CASES[name]
            uses = count_uses([k.time_s for k in answer.keyframes], [f.time_s for f in answer.frames])
            pages[name.replace(" ", "-")] = render(answer, take_pictures(video_file, uses, 500_000), TRUTH)
    flags = ["--blink-settings=preferredColorScheme=0"] if request.param == "dark" else []
    result = visit(folder, pages, WIDTHS, *flags)
    assert result.found[0]["background"] == ([20, 23, 26] if flags else [255, 255, 255])
    return result


def test_nothing_is_loaded_and_nothing_complains(seen: Visit) -> None:
    pages = sorted(f"/{name.replace(' ', '-')}.html" for name in PAGES for _ in WIDTHS)
    # The browser may take the second copy of a page from its cache.
    assert set(seen.requests) == {"/harness.html", *pages}
    assert [found["loaded"] for found in seen.found] == [[]] * len(seen.found)
    assert seen.console == []
    assert all(found["scripts"] == found["handlers"] == 0 for found in seen.found)


def test_everything_fits_at_every_width(seen: Visit) -> None:
    assert [found["width"] for found in seen.found] == [w for _ in PAGES for w in WIDTHS]
    for found in seen.found:
        assert found["scroll_width"] <= found["width"], found["name"]
        assert found["sticking_out"] == [], found["name"]


def test_everything_is_there_to_be_seen(seen: Visit) -> None:
    for found in seen.found:
        answer = CASES[found["name"].replace("-", " ")]
        assert found["images"] == len(answer.keyframes) + len(answer.frames)
        assert (found["bad_images"], found["unlabelled"]) == (0, 0)
        assert found["least_contrast"] >= LEAST_CONTRAST, found["name"]
        assert found["headings"][:2] == [answer.question.strip(), "Answer"]
        assert {"Where it looked", "What the answer was read from", "What the model wrote"} <= set(found["headings"])
        assert ("What had to be seen" in found["headings"]) == (answer.mode == "focus")


def test_text_of_a_user_is_text(seen: Visit) -> None:
    for found in seen.found:
        if found["name"] == "markup":
            # Question, two options, answer, note, element, keyframe, completion, model, encoder.
            assert found["text"].count(MARKUP) == 10
            assert found["text"].count(MARKUP_NAME) == 2
            assert "49" not in found["text"].replace(MARKUP, "")


def test_a_bad_page_would_be_noticed(tmp_path: Path) -> None:
    result = visit(tmp_path, {"bad": BAD_PAGE, "good": render(ANSWER, {})}, [360])
    bad, good = result.found
    assert bad["scroll_width"] > bad["width"]
    assert bad["sticking_out"]
    assert bad["least_contrast"] < LEAST_CONTRAST
    assert (bad["bad_images"], bad["scripts"]) == (1, 1)
    assert "/missing.png" in result.requests
    assert bad["loaded"]
    assert len(result.console) >= 1
    assert good["scripts"] == 0
