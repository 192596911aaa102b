"""What all pages share: one HTML file with small pictures of one video, without scripts, that loads no other file."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from videoreasoner.errors import SettingError
from videoreasoner.inference.report.pictures import PagePicture, take_pictures
from videoreasoner.inference.report.timeline import clock, ticks
from videoreasoner.utils.files import replacing
from videoreasoner.version import __version__
from videoreasoner.video.reader import VideoReader

# A usual page stays below a megabyte, text included.
_PAGE_BYTES = 980_000
# Pictures get this much even where the texts fill the page.
_LEAST_PICTURE_BYTES = 300_000

# Control characters are not allowed in HTML; Unicode has a visible symbol for each of them.
_CONTROLS = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n"} | {0x7F: 0x2421}

_TEMPLATES = Environment(
    loader=PackageLoader("videoreasoner.inference.report", ""),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render_template(
    name: str,
    video: str,
    duration_s: float,
    pictures: Mapping[float, PagePicture],
    version: str = __version__,
    **more: Any,
) -> str:
    """A page as HTML. The same arguments give the same page.

    Args:
        name: file name of the template.
        video: path or URL of the video.
        duration_s: its length in seconds.
        pictures: by seconds; times that are not there are shown without a picture.
        version: of this package, when what the page shows was computed.
        more: what else the template shows.
    """
    page = _TEMPLATES.get_template(name).render(
        video=video,
        video_name=video.rstrip("/").rsplit("/", 1)[-1],
        version=version,
        pictures=pictures,
        ticks=ticks(duration_s),
        clock=lambda time_s, digits=2: clock(time_s, duration_s, digits),
        **more,
    )
    return page.translate(_CONTROLS)


def write_page(
    path: str | os.PathLike[str],
    video: VideoReader,
    uses: Mapping[float, int],
    render: Callable[[Mapping[float, PagePicture]], str],
) -> None:
    """Write a page with pictures of a video: the whole file, or nothing if anything fails.

    Args:
        path: the file; it is replaced if it exists.
        video: the open video.
        uses: seconds of each picture, and how often it stands in the page.
        render: the page with these pictures, as HTML.

    Raises:
        VideoError: the video can no longer be decoded.
        SettingError: the file cannot be written.
    """
    limit = max(_PAGE_BYTES - len(_encode(render({}))), _LEAST_PICTURE_BYTES)
    page = _encode(render(take_pictures(video, uses, limit)))
    path = Path(path)
    try:
        with replacing(path) as partial:
            partial.write_bytes(page)
    except OSError as error:
        raise SettingError(
            f"{path}: cannot be written ({error.strerror or error}); give a file name in a folder that exists and is "
            "writable"
        ) from error


def _encode(page: str) -> bytes:
    # A file name may hold half a surrogate pair, which has no UTF-8.
    return page.encode("utf-8", "backslashreplace")
