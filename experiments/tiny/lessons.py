"""What the tiny model is taught with: videos rendered on the fly, as prompt trees with targets. Pure, seeded.

A lesson is one video looked at with one frame plan. Its trunk is the system text and the clip; every question is a
branch, every task behind it another, so one vision pass and one trunk serve all of a video's targets.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from videoreasoner.models.positions import ClipTokens, temporal_indices
from videoreasoner.models.prompt_encoder import PromptEncoder
from videoreasoner.models.prompt_tree import PackedTree, PromptTree, collate
from videoreasoner.spans import Span
from videoreasoner.synthetic.questions import Split, ask
from videoreasoner.synthetic.world import Event, World, WorldSettings, random_world, render
from videoreasoner.tasks import Task, event_text, key_elements_text
from videoreasoner.video.patches import Patches, PatchSettings, patchify, resize
from videoreasoner.video.sampling import FramePlan, SamplingSettings, focus_plan, uniform_plan

LessonKind = Literal["glances", "captions", "tasks", "moments"]

# Videos are drawn somewhat larger than the model sees them, so that training meets the same resize as inference.
_RENDER_SIZE = 64
# A nominal length: ratios are all that matters, but dense rates are per second.
_DURATION_S = 60.0
_QUESTIONS_A_VIDEO = 2


@dataclass(frozen=True)
class LessonSettings:
    """How videos are looked at while teaching.

    Attributes:
        sampling: the frame settings that the checkpoint will be used with.
        patches: the vision tower's geometry.
        world: what the videos are drawn from.
        focused_share: share of videos looked at with dense frames around one event.
    """

    sampling: SamplingSettings
    patches: PatchSettings
    world: WorldSettings = field(default_factory=WorldSettings)
    focused_share: float = 0.5


@dataclass(frozen=True, eq=False)
class Lesson:
    """One packed tree, its pixels, and the nodes whose tokens are targets, by kind."""

    packed: PackedTree
    patches: Patches
    targets: list[tuple[int, str]]


@dataclass(frozen=True, eq=False)
class LessonBatch:
    """Arguments of a forward pass, and where the targets are predicted.

    Attributes:
        inputs: what `collate` returns, and pixel_values_videos, video_grid_thw.
        rows, predictors, labels: int64[N], batch row, index in it, and the id to predict there.
        leaf: int64[N], number of the target that each token belongs to.
        kinds: the kind of each target.
    """

    inputs: dict[str, Tensor]
    rows: Tensor
    predictors: Tensor
    labels: Tensor
    leaf: Tensor
    kinds: list[str]


def _visible(times: NDArray[np.float64], start: float, end: float) -> bool:
    return bool(((times >= start) & (times < end)).any())


def _plan(rng: np.random.Generator, event: Event, settings: LessonSettings, focused: bool) -> FramePlan:
    if not focused:
        return uniform_plan(_DURATION_S, settings.sampling)
    # Located spans are never exact: shift and stretch them the way a model in training errs.
    length = event.end - event.start
    start, end = np.clip([event.start + rng.normal() * 0.15 * length, event.end + rng.normal() * 0.15 * length], 0, 1)
    spans = [Span.from_ratios(start, end, _DURATION_S)] if end > start else []
    keyframes = []
    if rng.random() < 0.6:
        # The text-image encoder finds the detail, or any other moment of the event.
        low, high = (event.detail_start, event.detail_end) if rng.random() < 0.6 else (event.start, event.end)
        keyframes = [float(rng.uniform(low, high)) * _DURATION_S]
        spans += [Span.around(t, 2.0) for t in keyframes]
    return focus_plan(_DURATION_S, spans, settings.sampling, keyframes)


def _glance(rng: np.random.Generator, event: Event) -> FramePlan:
    """Two pairs somewhere in an event, often at its detail: enough to learn what things look like."""
    times = rng.uniform(event.start, event.end, 2)
    if rng.random() < 0.6:
        times[0] = rng.uniform(event.detail_start, event.detail_end)
    # The two frames of a pair stand as close together as dense ones do.
    pairs = np.sort(times)[:, None] + np.array([-0.002, 0.002])
    return FramePlan(np.sort(pairs.reshape(-1)).reshape(2, 2).clip(0, 1) * _DURATION_S, np.ones(2, bool))


def _description(event: Event, world: World, times: NDArray[np.float64], timed: bool) -> str:
    """One event as far as the sampled frames show it."""
    text = f"a {event.color} {event.shape}"
    if timed:
        text = f"{event.start:.2f} to {event.end:.2f}: {text}"
    if _visible(times, event.detail_start, event.detail_end):
        verb = "flashes" if world.detail_kind == "color" else "shows the digit"
        text += f" that {verb} {event.detail}"
    return text + "."


def lesson(
    rng: np.random.Generator,
    encoder: PromptEncoder,
    world: World,
    settings: LessonSettings,
    kind: LessonKind,
) -> Lesson:
    """One video with its targets."""
    event = world.events[int(rng.integers(len(world.events)))]
    focused = kind == "glances" or bool(rng.random() < settings.focused_share)
    plan = _glance(rng, event) if kind == "glances" else _plan(rng, event, settings, focused)
    times = plan.times_s / _DURATION_S
    patches = patchify(resize(render(world, times, _RENDER_SIZE), settings.patches), settings.patches)
    merge = settings.patches.merge_size
    clip = ClipTokens(
        patches.grid[1] // merge,
        patches.grid[2] // merge,
        temporal_indices(plan.pairs_s[:, 0].tolist(), None),
    )
    sheet = _Sheet(encoder, PromptTree(encoder.trunk([clip])), [])
    if kind == "moments" and not focused:
        _set_moments(rng, sheet, world, times)
    elif kind in ("moments", "tasks"):
        _set_tasks(rng, sheet, world, times, event if focused else None)
    else:
        _set_captions(rng, sheet, world, times, timed=not focused)
    return Lesson(sheet.tree.pack(), patches, sheet.targets)


@dataclass(frozen=True)
class _Sheet:
    """A lesson being written: questions and targets are nodes of its tree."""

    encoder: PromptEncoder
    tree: PromptTree
    targets: list[tuple[int, str]]

    def question(self, text: str, options: tuple[str, ...] = ()) -> int:
        return self.tree.add(self.encoder.question(text, options))

    def target(self, parent: int, text: tuple[int, ...], kind: str) -> None:
        self.targets.append((self.tree.add((*text, self.encoder.end_id), parent), kind))


def _set_captions(
    rng: np.random.Generator, sheet: _Sheet, world: World, times: NDArray[np.float64], timed: bool
) -> None:
    """Describe the video and each of its objects; with times where the frames are evenly spread."""
    text = sheet.encoder.text
    shown = [e for e in world.events if _visible(times, e.start, e.end)]
    whole = sheet.question("Describe the video." if timed else "What is there to see?")
    sentences = [_description(e, world, times, timed) for e in shown]
    sheet.target(whole, text(" ".join(sentences)), "caption")
    for event in shown:
        thing = str(rng.choice([event.shape, f"{event.color} object", f"{event.color} {event.shape}"]))
        node = sheet.question(f"{'Describe' if timed else 'What about'} the {thing}.")
        sheet.target(node, text(_description(event, world, times, timed)), "described" if timed else "seen")


def _set_tasks(
    rng: np.random.Generator, sheet: _Sheet, world: World, times: NDArray[np.float64], focus: Event | None
) -> None:
    """Ask about the video, a detail and something plain in turn: every task where frames are evenly spread, the answer
    alone where they are dense around one event."""
    splits: tuple[Split, ...] = ("detail", "plain")
    for number in range(_QUESTIONS_A_VIDEO):
        split = splits[number % 2]
        about = focus or world.events[int(rng.integers(len(world.events)))]
        question = ask(rng, world, about, split)
        options = question.options if rng.random() < 0.5 else ()
        node = sheet.question(question.text, options)
        texts = {
            Task.EVENT: event_text(Span.from_ratios(about.start, about.end, _DURATION_S), _DURATION_S),
            Task.KEY_ELEMENTS: key_elements_text(question.key_elements),
            Task.ANSWER: question.answer,
        }
        for task, text in texts.items():
            if task is Task.ANSWER:
                # What no frame shows cannot be learned from this video, only guessed.
                if not _visible(times, *question.visible_for):
                    continue
                kind = f"{split}{'_focused' if focus else ''}"
            elif focus:
                continue
            else:
                kind = str(task)
            branch = sheet.tree.add(sheet.encoder.prefix(task), node)
            sheet.target(branch, sheet.encoder.completion(task, text), kind)


def _set_moments(rng: np.random.Generator, sheet: _Sheet, world: World, times: NDArray[np.float64]) -> None:
    """Ask about every event: the same video, other words, another time. Nothing but the words tells them apart."""
    for event in world.events:
        split: Split = "detail" if rng.random() < 0.5 else "plain"
        question = ask(rng, world, event, split)
        node = sheet.question(question.text, question.options if rng.random() < 0.5 else ())
        located = event_text(Span.from_ratios(event.start, event.end, _DURATION_S), _DURATION_S)
        branch = sheet.tree.add(sheet.encoder.prefix(Task.EVENT), node)
        sheet.target(branch, sheet.encoder.completion(Task.EVENT, located), str(Task.EVENT))
        if _visible(times, *question.visible_for):
            branch = sheet.tree.add(sheet.encoder.prefix(Task.ANSWER), node)
            sheet.target(branch, sheet.encoder.completion(Task.ANSWER, question.answer), split)


def batch(lessons: list[Lesson], pad_token_id: int) -> LessonBatch:
    """Lessons as one forward pass."""
    inputs = collate([item.packed for item in lessons], pad_token_id)
    inputs["pixel_values_videos"] = torch.cat([item.patches.pixel_values for item in lessons])
    inputs["video_grid_thw"] = torch.tensor([item.patches.grid for item in lessons])
    rows: list[Tensor] = []
    predictors: list[Tensor] = []
    labels: list[Tensor] = []
    leaf: list[Tensor] = []
    kinds: list[str] = []
    for row, item in enumerate(lessons):
        for node, kind in item.targets:
            where = item.packed.predictors(node)
            rows.append(torch.full_like(where, row))
            predictors.append(where)
            labels.append(torch.tensor(item.packed.tree.tokens[node]))
            leaf.append(torch.full_like(where, len(kinds)))
            kinds.append(kind)
    return LessonBatch(inputs, torch.cat(rows), torch.cat(predictors), torch.cat(labels), torch.cat(leaf), kinds)


def lesson_batch(
    encoder: PromptEncoder,
    settings: LessonSettings,
    kind: LessonKind,
    batch_size: int,
    seed: int,
    number: int,
) -> LessonBatch:
    """Batch `number` of the training videos of a seed; always the same one."""
    rng = np.random.default_rng([seed, number])
    videos = [random_world(rng, settings.world) for _ in range(batch_size)]
    lessons = [lesson(rng, encoder, video_file, settings, kind) for video_file in videos]
    return batch(lessons, encoder.tokenizer.pad_token_id)
