"""Training examples of the tiny model: synthetic videos, rendered on demand, with questions and targets.

An example is one video, sampled with one frame plan. All its questions and tasks are nodes of one prompt tree, so all
targets of a video share one vision pass and one prefill.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from experiments.tiny.model import PATCHES, SETTINGS
from experiments.tiny.stages import Stage
from videoreasoner.models.positions import ClipTokens, temporal_indices
from videoreasoner.models.prompt_encoder import PromptEncoder
from videoreasoner.models.prompt_tree import PromptTree
from videoreasoner.models.tree_batch import TreeBatch
from videoreasoner.spans import Span
from videoreasoner.synthetic.questions import Split, make_question
from videoreasoner.synthetic.world import Event, World, WorldSettings, random_world, render
from videoreasoner.tasks import Task, event_text, key_elements_text
from videoreasoner.video.patches import Patches, patchify, resize
from videoreasoner.video.sampling import FramePlan, focus_plan, uniform_plan

# Videos are rendered larger than the model sees them, so that training uses the same resize as inference.
_RENDER_SIZE = 64
# Only ratios of the duration matter, but dense rates are per second.
_DURATION_S = 60.0
_SPLITS: tuple[Split, ...] = ("detail", "plain")


@dataclass(frozen=True, eq=False)
class TinyExample:
    """A prompt tree, the clip at its root, and node -> kind of target for the nodes whose tokens are targets."""

    tree: PromptTree
    patches: Patches
    targets: dict[int, str] = field(default_factory=dict)

    def add_target(self, parent: int, tokens: tuple[int, ...], kind: str) -> None:
        self.targets[self.tree.add(tokens, parent)] = kind


@dataclass(frozen=True, eq=False)
class TinyBatch:
    """Examples as one forward pass: the trees, the model's arguments for the clips, and the kind of each target."""

    tree: TreeBatch
    clips: dict[str, Tensor]
    kinds: list[str]


def make_batch(encoder: PromptEncoder, stage: Stage, number: int, videos: int | None = None) -> TinyBatch:
    """Batch `number` of a stage. It depends on the stage's seed and the number only.

    Args:
        videos: number of videos; by default the stage's.
    """
    rng = np.random.default_rng([stage.seed, number])
    settings = WorldSettings(stage.events, stage.event_share)
    worlds = [random_world(rng, settings) for _ in range(videos or stage.videos_per_step)]
    return collate_examples([make_example(rng, encoder, world, stage) for world in worlds], encoder)


def collate_examples(examples: list[TinyExample], encoder: PromptEncoder) -> TinyBatch:
    targets = [list(example.targets) for example in examples]
    pad_token_id = encoder.tokenizer.pad_token_id
    batch = TreeBatch.from_trees([example.tree for example in examples], targets, pad_token_id)
    kinds = [kind for example in examples for kind in example.targets.values()]
    return TinyBatch(batch, batch.clip_inputs([example.patches for example in examples]), kinds)


def make_example(rng: np.random.Generator, encoder: PromptEncoder, world: World, stage: Stage) -> TinyExample:
    """One video with its targets."""
    event = world.events[int(rng.integers(len(world.events)))]
    is_glance = stage.examples == "glances"
    is_focused = is_glance or bool(rng.random() < stage.focused_share)
    if is_glance:
        plan = _glance_plan(rng, event)
    else:
        plan = _focused_plan(rng, event) if is_focused else uniform_plan(_DURATION_S, SETTINGS.sampling)
    times = plan.times_s / _DURATION_S
    patches = patchify(resize(render(world, times, _RENDER_SIZE), PATCHES), PATCHES)
    height, width = (side // PATCHES.merge_size for side in patches.grid[1:])
    clip = ClipTokens(height, width, temporal_indices(plan.pairs_s[:, 0].tolist(), None))
    example = TinyExample(PromptTree(encoder.trunk([clip])), patches)
    if stage.examples == "moments" and not is_focused:
        _add_moments(rng, example, encoder, world, times)
    elif stage.examples in ("moments", "tasks"):
        _add_tasks(rng, example, encoder, world, times, event if is_focused else None)
    else:
        _add_captions(rng, example, encoder, world, times, has_times=not is_focused)
    return example


def _focused_plan(rng: np.random.Generator, event: Event) -> FramePlan:
    """Frames as `focus` samples them, around an event that was located with errors."""
    length = event.end - event.start
    start, end = np.clip([event.start + rng.normal() * 0.15 * length, event.end + rng.normal() * 0.15 * length], 0, 1)
    spans = [Span.from_ratios(start, end, _DURATION_S)] if end > start else []
    keyframes = []
    if rng.random() < 0.6:
        # The text-image encoder finds the detail, or another moment of the event.
        low, high = (event.detail_start, event.detail_end) if rng.random() < 0.6 else (event.start, event.end)
        keyframes = [float(rng.uniform(low, high)) * _DURATION_S]
        spans += [Span.around(t, 2.0) for t in keyframes]
    return focus_plan(_DURATION_S, spans, SETTINGS.sampling, keyframes)


def _glance_plan(rng: np.random.Generator, event: Event) -> FramePlan:
    """Two pairs of frames inside an event, often at its detail."""
    times = rng.uniform(event.start, event.end, 2)
    if rng.random() < 0.6:
        times[0] = rng.uniform(event.detail_start, event.detail_end)
    # The two frames of a pair are as close together as dense frames.
    pairs = np.sort(times)[:, None] + np.array([-0.002, 0.002])
    return FramePlan(np.sort(pairs.reshape(-1)).reshape(2, 2).clip(0, 1) * _DURATION_S, np.ones(2, bool))


def _add_captions(
    rng: np.random.Generator,
    example: TinyExample,
    encoder: PromptEncoder,
    world: World,
    times: NDArray[np.float64],
    has_times: bool,
) -> None:
    """Describe the video and each of its objects; with times if the frames are evenly spread."""

    def add(question: str, answer: str, kind: str) -> None:
        node = example.tree.add(encoder.question(question))
        example.add_target(node, (*encoder.text(answer), encoder.end_id), kind)

    shown = [event for event in world.events if _is_visible(times, event.start, event.end)]
    sentences = [_description(event, world, times, has_times) for event in shown]
    add("Describe the video." if has_times else "What is there to see?", " ".join(sentences), "caption")
    for event, sentence in zip(shown, sentences, strict=True):
        thing = str(rng.choice([event.shape, f"{event.color} object", f"{event.color} {event.shape}"]))
        question = f"{'Describe' if has_times else 'What about'} the {thing}."
        add(question, sentence, "described" if has_times else "seen")


def _description(event: Event, world: World, times: NDArray[np.float64], has_times: bool) -> str:
    """What the sampled frames show of an event."""
    text = f"a {event.color} {event.shape}"
    if has_times:
        text = f"{event.start:.2f} to {event.end:.2f}: {text}"
    if _is_visible(times, event.detail_start, event.detail_end):
        verb = "flashes" if world.detail_kind == "color" else "shows the digit"
        text += f" that {verb} {event.detail}"
    return text + "."


def _add_tasks(
    rng: np.random.Generator,
    example: TinyExample,
    encoder: PromptEncoder,
    world: World,
    times: NDArray[np.float64],
    focused: Event | None,
) -> None:
    """Ask one detail and one plain question: all tasks on evenly spread frames, only the answer on focused ones."""
    for split in _SPLITS:
        event = focused or world.events[int(rng.integers(len(world.events)))]
        question = make_question(rng, world, event, split)
        node = example.tree.add(encoder.question(question.text, question.options if rng.random() < 0.5 else ()))
        if not focused:
            _add_task(example, encoder, node, Task.EVENT, _span_text(event))
            _add_task(example, encoder, node, Task.KEY_ELEMENTS, key_elements_text(question.key_elements))
        # The model could only guess an answer that no frame shows.
        if _is_visible(times, *question.visible_for):
            kind = f"{split}_focused" if focused else split
            _add_task(example, encoder, node, Task.ANSWER, question.answer, kind)


def _add_moments(
    rng: np.random.Generator, example: TinyExample, encoder: PromptEncoder, world: World, times: NDArray[np.float64]
) -> None:
    """Ask about every event of one video. Only the words of the question decide which event is meant."""
    for event in world.events:
        split: Split = "detail" if rng.random() < 0.5 else "plain"
        question = make_question(rng, world, event, split)
        node = example.tree.add(encoder.question(question.text, question.options if rng.random() < 0.5 else ()))
        _add_task(example, encoder, node, Task.EVENT, _span_text(event))
        if _is_visible(times, *question.visible_for):
            _add_task(example, encoder, node, Task.ANSWER, question.answer, split)


def _add_task(
    example: TinyExample, encoder: PromptEncoder, question: int, task: Task, text: str, kind: str | None = None
) -> None:
    prefix = example.tree.add(encoder.prefix(task), question)
    example.add_target(prefix, (*encoder.completion(task, text), encoder.end_id), kind or str(task))


def _span_text(event: Event) -> str:
    return event_text(Span.from_ratios(event.start, event.end, _DURATION_S), _DURATION_S)


def _is_visible(times: NDArray[np.float64], start: float, end: float) -> bool:
    return bool(((times >= start) & (times < end)).any())
