"""An answer with its evidence as one picture, for a README, a paper or a chat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import wrap

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from videoreasoner.evidence import Answer
from videoreasoner.video.file import VideoFile

_WIDTH, _MARGIN, _LINE = 1200, 32, 26
_COLUMNS, _MOST_FRAMES = 8, 16
_INK, _FAINT, _PAPER = (30, 33, 38), (130, 137, 146), (255, 255, 255)
_EVENT, _KEYFRAME, _DENSE = (249, 199, 79), (214, 64, 69), (44, 110, 203)


@dataclass
class _Page:
    """A sheet that is filled from top to bottom and grows as it is."""

    image: Image.Image
    draw: ImageDraw.ImageDraw
    y: int = _MARGIN

    def reserve(self, height: int) -> None:
        """Make sure that there is paper for so many more pixels."""
        if self.y + height + _MARGIN > self.image.height:
            longer = Image.new("RGB", (_WIDTH, 2 * (self.y + height + _MARGIN)), _PAPER)
            longer.paste(self.image)
            self.image, self.draw = longer, ImageDraw.Draw(longer)

    def text(self, text: str, size: int = 17, color: tuple[int, int, int] = _INK) -> None:
        font = ImageFont.load_default(size)
        for line in wrap(text, width=int((_WIDTH - 2 * _MARGIN) / (size * 0.52))) or [""]:
            self.reserve(2 * size)
            self.draw.text((_MARGIN, self.y), line, fill=color, font=font)
            self.y += int(size * 1.5)


def draw_answer(answer: Answer, video: VideoFile) -> Image.Image:
    """Question, answer, option probabilities, timeline, and what the final pass saw (at most 16 frames, dense ones
    first). RGB, 1200 pixels wide, as high as it needs.

    Raises:
        VideoError: the film can no longer be decoded.
    """
    blank = Image.new("RGB", (_WIDTH, 1200), _PAPER)
    page = _Page(blank, ImageDraw.Draw(blank))
    page.text(answer.question[:400], 26)
    sure = "" if answer.confidence is None or answer.choice is None else f"  ({answer.confidence[answer.choice]:.0%})"
    page.text(f"{answer.text[:400]}{sure}", 30, _DENSE)
    _draw_options(page, answer)
    _draw_timeline(page, answer)
    _draw_frames(page, answer, video)
    stages = "   ".join(f"{name} {seconds:.2f} s" for name, seconds in answer.timing.items())
    page.text(f"{answer.model}, {answer.mode}:   {stages}", 14, _FAINT)
    for note in answer.notes:
        page.text(note, 14, _FAINT)
    return page.image.crop((0, 0, _WIDTH, page.y + _MARGIN // 2))


def _draw_options(page: _Page, answer: Answer) -> None:
    if answer.confidence is None:
        return
    font = ImageFont.load_default(17)
    page.reserve(_LINE * len(answer.options))
    page.y += 6
    for (letter, share), option in zip(answer.confidence.items(), answer.options, strict=True):
        words = " ".join(option.split())[:24]
        page.draw.text((_MARGIN, page.y), f"{letter}. {words}", fill=_INK, font=font)
        left = _MARGIN + 260
        length = int(share * 400)
        color = _DENSE if letter == answer.choice else _FAINT
        page.draw.rectangle((left, page.y + 4, left + max(length, 1), page.y + 18), fill=color)
        page.draw.text((left + length + 10, page.y), f"{share:.2f}", fill=_INK, font=font)
        page.y += _LINE
    page.y += 6


def _draw_timeline(page: _Page, answer: Answer) -> None:
    """The film from left to right: event, keyframes, and every frame that was seen."""
    font = ImageFont.load_default(15)
    span = _WIDTH - 2 * _MARGIN

    def x(time_s: float) -> int:
        return _MARGIN + int(min(max(time_s / answer.duration_s, 0), 1) * span)

    page.reserve(120)
    top, bottom = page.y + 24, page.y + 56
    page.draw.rectangle((_MARGIN, top, _MARGIN + span, bottom), fill=(240, 242, 245))
    if answer.event is not None:
        start, end = answer.event.start_s, answer.event.end_s
        page.draw.rectangle((x(start), top, x(end), bottom), fill=_EVENT)
        label = f"event {start:.1f} s to {end:.1f} s"
        page.draw.text((min(x(start), _WIDTH - 220), page.y), label, fill=_INK, font=font)
    for frame in answer.frames:
        height = 16 if frame.dense else 8
        color = _DENSE if frame.dense else _FAINT
        page.draw.line((x(frame.time_s), bottom - height, x(frame.time_s), bottom), fill=color, width=2)
    for keyframe in answer.keyframes:
        at = x(keyframe.time_s)
        page.draw.polygon([(at, bottom + 2), (at - 6, bottom + 14), (at + 6, bottom + 14)], fill=_KEYFRAME)
    page.draw.text((_MARGIN, bottom + 16), "0 s", fill=_FAINT, font=font)
    page.draw.text((_WIDTH - _MARGIN - 56, bottom + 16), f"{answer.duration_s:.0f} s", fill=_FAINT, font=font)
    page.y = bottom + 44
    found = [f"{k.element} at {k.time_s:.1f} s" for k in answer.keyframes]
    if found:
        page.text(("Keyframes: " + ";  ".join(found[:8]))[:800], 16, _KEYFRAME)
    page.y += 6


def _draw_frames(page: _Page, answer: Answer, video: VideoFile) -> None:
    chosen = _chosen(answer)
    if not chosen:
        return
    frames = dict(chosen)
    size = (_WIDTH - 2 * _MARGIN) // _COLUMNS - 8
    font = ImageFont.load_default(14)
    row_height = 0
    for i, (time_s, pixels) in enumerate(video.frames_at(np.array(list(frames)))):
        picture = Image.fromarray(pixels)
        picture.thumbnail((size, size))
        if min(picture.size) < size and max(picture.size) < size:
            scale = size / max(picture.size)
            picture = picture.resize(
                (round(picture.width * scale), round(picture.height * scale)), Image.Resampling.NEAREST
            )
        column = i % _COLUMNS
        if column == 0 and i:
            page.y += row_height
            row_height = 0
        page.reserve(size + _LINE)
        left = _MARGIN + column * (size + 8)
        page.image.paste(picture, (left, page.y))
        color = _DENSE if list(frames.values())[i] else _FAINT
        page.draw.rectangle(
            (left, page.y, left + picture.width - 1, page.y + picture.height - 1), outline=color, width=3
        )
        page.draw.text((left, page.y + picture.height + 2), f"{time_s:.2f} s", fill=color, font=font)
        row_height = max(row_height, picture.height + 26)
    page.y += row_height + 4


def _chosen(answer: Answer) -> Sequence[tuple[float, bool]]:
    """Up to 16 frames in order of time: keyframes' neighbours in the dense part first, the rest evenly."""
    dense = [f for f in answer.frames if f.dense]
    pool = dense or answer.frames
    if len(pool) > _MOST_FRAMES:
        pool = [pool[int((i + 0.5) * len(pool) / _MOST_FRAMES)] for i in range(_MOST_FRAMES)]
    return [(f.time_s, f.dense) for f in pool]
