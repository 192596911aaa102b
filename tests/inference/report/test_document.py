"""What all pages share: a whole file or nothing, with the pictures that are asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.video.videos import Recipe
from videoreasoner.errors import SettingError
from videoreasoner.inference.report.document import write_page
from videoreasoner.video.pyav.file import VideoFile


@pytest.fixture
def video_file(tmp_path: Path) -> Path:
    return Recipe("video.mp4", count=50).make(tmp_path)


def test_a_page_has_the_pictures_that_it_uses(video_file: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("old")
    with VideoFile(video_file) as video:
        write_page(page, video, {0.0: 1, 1.0: 2}, lambda pictures: " ".join(map(str, sorted(pictures))) + " \udcff")
    assert page.read_bytes() == b"0.0 1.0 \\udcff"


def test_a_page_that_fails_leaves_the_old_one(video_file: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("old")

    def fail(pictures: object) -> str:
        raise ZeroDivisionError

    with VideoFile(video_file) as video:
        with pytest.raises(ZeroDivisionError):
            write_page(page, video, {}, fail)
        with pytest.raises(SettingError, match=r"nowhere.*cannot be written"):
            write_page(tmp_path / "nowhere" / "page.html", video, {}, lambda _: "new")
    assert page.read_text() == "old"
    assert {path.name for path in tmp_path.iterdir()} == {"page.html", "video.mp4"}
