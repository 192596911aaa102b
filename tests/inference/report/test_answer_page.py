"""What the page says, and that it says nothing that the answer does not."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import av
import numpy as np
import pytest

from tests.inference.report.answers import ANSWER, CASES, DIRECT, MARKUP, TRUTH
from tests.video.videos import Recipe
from videoreasoner.errors import SettingError, VideoError
from videoreasoner.inference.answer import Answer, FrameUse
from videoreasoner.inference.report.answer_page import render, write_report
from videoreasoner.inference.report.pictures import PagePicture
from videoreasoner.retrieval.keyframes import Keyframe

VOID = {"meta", "link", "img", "line", "rect", "path", "br"}


class PageReader(HTMLParser):
    """Text and elements of a page; refuses elements that are not closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self._open: list[str] = []
        self.feed(page)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] != "style":
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def count(self, tag: str, **attributes: str) -> int:
        return sum(t == tag and attributes.items() <= a.items() for t, a in self.elements)


def _read(answer: Answer, truth: object = None) -> PageReader:
    return PageReader(render(answer, {}, TRUTH if truth else None))


@pytest.mark.parametrize("name", CASES)
def test_any_answer_makes_a_sound_page(name: str) -> None:
    answer = CASES[name]
    page = _read(answer, truth=True)
    assert page.count("h1") == 1
    assert page.count("script") == 0
    assert page.count("figure") == len(answer.keyframes) + len(answer.frames)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    named = {a["aria-labelledby"] for _, a in page.elements if "aria-labelledby" in a}
    assert named <= set(ids)


def test_what_was_recorded_is_there() -> None:
    text = _read(ANSWER).text
    for words in (
        ANSWER.question, "Option B, probability 87.5 %", "red", "12.5 %", "Located event 0.5 to 1.0 s",
        "Keyframes 0.6 s, 0.7 s", "6 dense (tall), 14 sparse", "circle 0.72 s 0.53", "black dot 0.60 s 0.31",
        "<|event_start|>[0.25, 0.50]<|event_end|>", "generate 0.25 s", "the rest 0.05 s", "total 0.40 s", "12,345",
        "mode focus", "model tiny", "frame budget 20", f"VideoReasoner {ANSWER.version}", "video.mp4",
    ):  # fmt: skip
        assert words in text, words


def test_what_did_not_happen_is_not_there() -> None:
    direct = _read(replace(ANSWER, **DIRECT))
    for words in (
        "Located event",
        "Key spans",
        "Keyframes",
        "Locate:",
        "had to be seen",
        "dense",
        "similarity",
        "True",
    ):
        assert words not in direct.text, words
    assert "Nothing was located" in direct.text
    open_question = _read(CASES["no options"]).text
    assert "Option" not in open_question
    assert "probability" not in open_question
    assert "Note" not in open_question


def test_a_thought_shows_text_and_no_evidence() -> None:
    page = _read(CASES["think"])
    for words in ("Option B, as written", "blue chosen", "flashes blue. </think> blue", "the text shows no evidence"):
        assert words in page.text, words
    for words in ("probability", "0.0 %", "Located event", "Keyframes", "Locate:"):
        assert words not in page.text, words
    unread = _read(CASES["think without an answer"]).text
    assert "as written" not in unread
    assert "chosen" not in unread


def test_the_truth_is_compared_only_where_it_is_known() -> None:
    assert "true" not in _read(ANSWER).text.lower()
    right = _read(ANSWER, truth=True).text
    assert "This is the true answer." in right
    # [0.5, 1.0] and [0.75, 1.25]: a third.
    assert "overlap by 0.33" in right
    assert "True event 0.8 to 1.2 s" in right
    wrong = _read(replace(ANSWER, text="red", choice="A"), truth=True).text
    assert "The true answer is B." in wrong
    assert "This is the true answer." not in wrong
    assert "overlap" not in _read(replace(ANSWER, event=None), truth=True).text
    page = render(CASES["no options"], {}, TRUTH.model_copy(update={"answer": MARKUP, "options": None}))
    assert f"True answer: {MARKUP}" in PageReader(page).text.replace("  ", " ")
    assert "This is the true answer." not in page


def test_markup_stays_text() -> None:
    plain, marked = _read(ANSWER), _read(CASES["markup"])
    allowed = {tag for tag, _ in plain.elements} | {"section"}
    assert {tag for tag, _ in marked.elements} <= allowed
    assert marked.count("b", onclick="x()") == 0


def test_control_characters_and_half_characters_do_no_harm(tmp_path: Path) -> None:
    page = render(CASES["odd characters"], {})
    assert "\0" not in page
    assert "\u2400" in page
    video_file = Recipe("video.mp4", count=50).make(tmp_path)
    write_report(replace(CASES["odd characters"], video=str(video_file)), tmp_path / "page.html")
    assert "\\ud800" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_marks_lie_where_they_belong() -> None:
    page = render(ANSWER, {}, TRUTH)
    assert re.search(r'<rect class="event" x="25\.000%" width="25\.000%"', page)
    assert re.search(r'<rect class="truth" x="37\.500%" width="25\.000%"', page)
    assert re.search(r'<svg class="mark" x="36\.000%"', page)
    assert len(re.findall(r'<line class="dense"', page)) == 6
    assert len(re.findall(r'<line class="sparse"', page)) == 14


def test_a_picture_that_is_not_there_is_said() -> None:
    picture = PagePicture("data:image/webp;base64,AAAA", 4, 3)
    times = [f.time_s for f in ANSWER.frames]
    page = PageReader(render(ANSWER, dict.fromkeys(times[:5], picture)))
    assert page.count("img", src=picture.uri, width="4", height="3") == 5
    assert "Pictures of 5 of 20 fit" in page.text
    # Keyframe 0.72 is no frame of the clip, and 0.6 is the seventh.
    assert "Pictures of 0 of 2 fit" in page.text
    assert page.text.count("no picture") == 17
    all_there = render(ANSWER, dict.fromkeys([*times, 0.72], picture))
    assert "fit into" not in all_there


def _noise(path: Path, frames: int, size: int) -> Path:
    """A video that no codec can make small."""
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=10)
        stream.width = stream.height = size
        stream.pix_fmt = "yuvj420p"
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(rng.integers(0, 256, (size, size, 3), np.uint8), format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize(("frames", "keyframes"), [(64, 8), (64, 200), (768, 8)])
def test_a_page_stays_below_a_megabyte_whatever_the_video(tmp_path: Path, frames: int, keyframes: int) -> None:
    video_file = _noise(tmp_path / "noise.mkv", 96, 320)
    times = [i * 9.5 / frames for i in range(frames)]
    answer = replace(
        ANSWER,
        video=str(video_file),
        duration_s=9.6,
        frames=[FrameUse(time_s, False) for time_s in times],
        keyframes=[Keyframe(times[i % frames], f"element {i}", 0.1, 0, 1) for i in range(keyframes)],
    )
    path = tmp_path / "page.html"
    write_report(answer, path)
    assert 100_000 < path.stat().st_size < 1_000_000
    page = PageReader(path.read_text(encoding="utf-8"))
    assert page.count("img") == frames + keyframes
    assert "fit into this page" not in page.text


def test_the_page_of_an_answer_is_that_of_its_record(tmp_path: Path) -> None:
    video_file = Recipe("video.mp4", count=50).make(tmp_path)
    answer = replace(ANSWER, video=str(video_file))
    for name, same in {"a": answer, "b": Answer.from_dict(answer.to_dict())}.items():
        write_report(same, tmp_path / f"{name}.html", TRUTH)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_pictures_show_the_video_at_their_times(tmp_path: Path) -> None:
    video_file = Recipe("video.mp4", count=50).make(tmp_path)
    write_report(replace(ANSWER, video=str(video_file)), tmp_path / "page.html")
    page = PageReader((tmp_path / "page.html").read_text(encoding="utf-8"))
    pictures = [(a["alt"], a["src"]) for tag, a in page.elements if tag == "img"]
    assert len(pictures) == 22
    assert len({source for _, source in pictures}) == 21
    by_time = dict(reversed(pictures))
    assert by_time["Frame at 0.60 s"] == by_time["Frame at 0.60 s, found for a key element"]
    assert by_time["Frame at 0.70 s"] != by_time["Frame at 0.80 s"]


def test_a_page_that_cannot_be_made_leaves_nothing_behind(tmp_path: Path) -> None:
    old = tmp_path / "page.html"
    old.write_text("old")
    with pytest.raises(VideoError, match=r"gone\.mp4"):
        write_report(replace(ANSWER, video=str(tmp_path / "gone.mp4")), old)
    video_file = Recipe("video.mp4", count=50).make(tmp_path)
    with pytest.raises(SettingError, match="nowhere"):
        write_report(replace(ANSWER, video=str(video_file)), tmp_path / "nowhere" / "page.html")
    with pytest.raises(SettingError, match="cannot be written"):
        write_report(replace(ANSWER, video=str(video_file)), tmp_path)
    assert old.read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["page.html", "video.mp4"]


def test_a_video_of_any_shape_can_be_shown(tmp_path: Path) -> None:
    for recipe in (
        Recipe("wide.mp4", count=12, size=(400, 2)),
        Recipe("high.mp4", count=12, size=(2, 400)),
        Recipe("pixel.mkv", codec="ffv1", count=12, size=(1, 1), pixel_format="yuv444p"),
        Recipe("single.mp4", count=1),
    ):
        write_report(replace(ANSWER, video=str(recipe.make(tmp_path))), tmp_path / "page.html")
        assert PageReader((tmp_path / "page.html").read_text(encoding="utf-8")).count("img") == 22
