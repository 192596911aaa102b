"""A world is what happens in a synthetic video; rendering it gives the frame at any time. Pure: no files.

Coloured shapes appear one after another, move and disappear; the time from appearing to disappearing is an *event*.
Once during its event, a shape shows a *detail* for a small share of the video: it changes its colour and shows a black
dot, or it shows a digit. Grey distractors move throughout the video.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from videoreasoner.errors import SettingError

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 40),
    "green": (40, 190, 60),
    "blue": (60, 90, 240),
    "yellow": (230, 215, 50),
    "purple": (170, 60, 200),
    "white": (240, 240, 240),
}
SHAPES = ("square", "circle", "triangle", "cross")
HELD_OUT_SHAPES = {
    "red": "square",
    "green": "cross",
    "blue": "square",
    "yellow": "circle",
    "purple": "cross",
    "white": "triangle",
}
"""For each colour, the shape that it has only in held-out videos. All shapes occur, so four events are possible."""
DIGITS = tuple("12345678")

# Three columns by five rows, the classic pocket-calculator font.
_FONT = {
    "1": "010 110 010 010 111",
    "2": "111 001 111 100 111",
    "3": "111 001 111 001 111",
    "4": "101 101 111 001 001",
    "5": "111 100 111 001 111",
    "6": "111 100 111 101 111",
    "7": "111 001 010 010 010",
    "8": "111 101 111 101 111",
}

DetailKind = Literal["color", "digit"]
Subset = Literal["train", "held_out"]


@dataclass(frozen=True)
class WorldSettings:
    """The ranges that a random world is drawn from. Shares are of the video's length.

    Attributes:
        events: fewest and most events, at most four, because their shapes differ (and so do their colours).
        event_share: shortest and longest event.
        gap_share: shortest empty time between two events.
        detail: what the detail is.
        detail_share: how long the detail shows.
        distractors: number of grey shapes.

    Raises:
        SettingError: a value is out of range, or the events do not fit into a video.
    """

    events: tuple[int, int] = (1, 3)
    event_share: tuple[float, float] = (0.12, 0.35)
    gap_share: float = 0.03
    detail: DetailKind = "color"
    detail_share: float = 0.01
    distractors: int = 1

    def __post_init__(self) -> None:
        fewest, most = self.events
        if not 1 <= fewest <= most <= len(SHAPES):
            raise SettingError(f"events must be 1 to {len(SHAPES)}, not {fewest} to {most}")
        shortest, longest = self.event_share
        if not 0 < shortest <= longest <= 1:
            raise SettingError(f"event_share must be two shares in (0, 1], not {self.event_share}")
        if not 0 <= self.gap_share < 1:
            raise SettingError(f"gap_share must lie in [0, 1), not {self.gap_share}")
        if most * shortest + (most - 1) * self.gap_share > 0.95:
            raise SettingError(
                f"{most} events of at least {shortest:g} and gaps of {self.gap_share:g} do not "
                "fit into a video; ask for fewer or shorter ones"
            )
        if not 0 < self.detail_share <= shortest / 2:
            raise SettingError(
                f"detail_share must lie in (0, {shortest / 2:g}], half of the shortest event, not {self.detail_share}"
            )
        if self.distractors < 0:
            raise SettingError(f"distractors must be 0 or more, not {self.distractors}")


@dataclass(frozen=True)
class Event:
    """One coloured shape and when it is visible. Times are shares of the video, places shares of the frame."""

    start: float
    end: float
    color: str
    shape: str
    path: tuple[tuple[float, float], tuple[float, float]]
    radius: float
    detail: str
    detail_start: float
    detail_end: float


@dataclass(frozen=True)
class World:
    """Everything that happens in one video.

    Attributes:
        events: in the order of time.
        background: its colour.
        distractors: of each, x and y at the start, x and y of its direction, radius and speed.
        detail_kind: what the details are.
    """

    events: tuple[Event, ...]
    background: tuple[int, int, int]
    distractors: tuple[tuple[float, ...], ...]
    detail_kind: DetailKind


def is_held_out(color: str, shape: str) -> bool:
    """Whether a pair of colour and shape is kept out of training; a quarter of them is.

    Details have no part in it: each is as likely in both subsets, so that nothing about the details of held-out videos
    follows from those of training videos.
    """
    return HELD_OUT_SHAPES[color] == shape


def random_world(rng: np.random.Generator, settings: WorldSettings, subset: Subset = "train") -> World:
    """Draw a world whose pairs of colour and shape all belong to the subset."""
    count = int(rng.integers(settings.events[0], settings.events[1] + 1))
    names = tuple(COLORS) if settings.detail == "color" else DIGITS
    objects = None
    while objects is None:
        colors = rng.permutation(list(COLORS))[:count]
        shapes = rng.permutation(SHAPES)[:count]
        details = [str(rng.choice([n for n in names if n != color])) for color in colors]
        drawn = [(str(c), str(s), d) for c, s, d in zip(colors, shapes, details, strict=True)]
        if all(is_held_out(color, shape) == (subset == "held_out") for color, shape, _ in drawn):
            objects = drawn
    events = []
    for (start, end), (color, shape, detail) in zip(_event_times(rng, count, settings), objects, strict=True):
        # Not at the very ends of the event, so that the detail is seen as a change.
        room = (end - start) - settings.detail_share
        at = start + room * rng.uniform(0.1, 0.9)
        radius = rng.uniform(0.22, 0.30)
        path = rng.uniform(radius, 1 - radius, (2, 2))
        events.append(
            Event(
                start, end, color, shape,
                ((float(path[0, 0]), float(path[0, 1])), (float(path[1, 0]), float(path[1, 1]))),
                float(radius), detail, float(at), float(at + settings.detail_share),
            )
        )  # fmt: skip
    red, green, blue = (int(v) for v in rng.integers(0, 40, 3))
    distractors = tuple(
        tuple(float(v) for v in (*rng.uniform(0, 1, 4), rng.uniform(0.02, 0.05), rng.uniform(1, 3)))
        for _ in range(settings.distractors)
    )
    return World(tuple(events), (red, green, blue), distractors, settings.detail)


def _event_times(rng: np.random.Generator, count: int, settings: WorldSettings) -> list[tuple[float, float]]:
    """Start and end of disjoint events: random lengths, with the remaining time split at random between the gaps."""
    shortest, longest = settings.event_share
    gaps = settings.gap_share * (count - 1)
    lengths = rng.uniform(shortest, longest, count)
    # Lengths that do not fit together are moved towards the shortest until they do.
    excess = lengths.sum() + gaps - 0.95
    if excess > 0:
        lengths -= (lengths - shortest) * excess / (lengths - shortest).sum()
    free = 1.0 - lengths.sum() - gaps
    before = rng.dirichlet(np.ones(count + 1)) * free
    times, at = [], 0.0
    for i in range(count):
        at += before[i] + (settings.gap_share if i else 0.0)
        times.append((float(at), float(min(at + lengths[i], 1.0))))
        at += lengths[i]
    return times


def render(world: World, times: NDArray[np.float64], size: int) -> NDArray[np.uint8]:
    """The frames at `times`, float64[T], which are shares of the video's length: uint8[T, size, size, 3]."""
    frames = np.empty((len(times), size, size, 3), np.uint8)
    frames[:] = world.background
    axis = ((np.arange(size) + 0.5) / size).astype(np.float32)
    xx, yy = axis[None, None, :], axis[None, :, None]
    for x, y, dx, dy, radius, speed in world.distractors:
        cx = (x + (dx - 0.5) * speed * times)[:, None, None] % 1.0
        cy = (y + (dy - 0.5) * speed * times)[:, None, None] % 1.0
        frames[(abs(xx - cx) < radius) & (abs(yy - cy) < radius)] = (110, 110, 110)
    for event in world.events:
        seen = np.flatnonzero((times >= event.start) & (times < event.end))
        if not len(seen):
            continue
        along = ((times[seen] - event.start) / (event.end - event.start)).astype(np.float32)
        (x0, y0), (x1, y1) = event.path
        off_x = xx - (x0 + (x1 - x0) * along)[:, None, None]
        off_y = yy - (y0 + (y1 - y0) * along)[:, None, None]
        inside = _inside(event.shape, off_x, off_y, event.radius)
        detailed = (times[seen] >= event.detail_start) & (times[seen] < event.detail_end)
        image = frames[seen]
        image[inside] = COLORS[event.color]
        if detailed.any():
            _draw_detail(image, inside, detailed, event, world.detail_kind, off_x, off_y)
        frames[seen] = image
    return frames


def _inside(shape: str, dx: NDArray[np.float32], dy: NDArray[np.float32], r: float) -> NDArray[np.bool_]:
    if shape == "square":
        return (abs(dx) <= r * 0.85) & (abs(dy) <= r * 0.85)
    if shape == "circle":
        return dx**2 + dy**2 <= r * r
    if shape == "triangle":
        return (dy <= r * 0.8) & (abs(dx) <= (dy + r) * 0.55)
    return ((abs(dx) <= r * 0.35) & (abs(dy) <= r)) | ((abs(dy) <= r * 0.35) & (abs(dx) <= r))


def _draw_detail(
    image: NDArray[np.uint8],
    inside: NDArray[np.bool_],
    detailed: NDArray[np.bool_],
    event: Event,
    kind: DetailKind,
    dx: NDArray[np.float32],
    dy: NDArray[np.float32],
) -> None:
    if kind == "color":
        image[inside & detailed[:, None, None]] = COLORS[event.detail]
        dot = (abs(dx) <= event.radius * 0.28) & (abs(dy) <= event.radius * 0.28)
        image[dot & detailed[:, None, None]] = (0, 0, 0)
        return
    cell = event.radius * 0.26
    rows = _FONT[event.detail].split()
    plate = (abs(dx) <= cell * 2) & (abs(dy) <= cell * 3)
    image[plate & detailed[:, None, None]] = (0, 0, 0)
    column = np.floor(dx / cell + 1.5)
    line = np.floor(dy / cell + 2.5)
    for y, row in enumerate(rows):
        for x, bit in enumerate(row):
            if bit == "1":
                image[(column == x) & (line == y) & detailed[:, None, None]] = (255, 255, 255)
