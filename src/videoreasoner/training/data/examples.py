"""Rows -> training examples: a prompt with its clip, and what the model is to write there.

The cold start and GRPO ask the same prompts. They differ in the task prefix: the cold start teaches the model to write
it, so that prefix, target and end token form the completion (paper, section "Multi-task Cold-start SFT"); in GRPO the
prefix is given, and the completion is sampled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from videoreasoner.errors import RowError
from videoreasoner.models.checkpoint import Checkpoint
from videoreasoner.models.positions import ClipTokens
from videoreasoner.models.prompt_encoder import PromptEncoder
from videoreasoner.models.prompt_tree import Prompt
from videoreasoner.rows import Row, RowFields
from videoreasoner.scoring import reference_events
from videoreasoner.spans import Span
from videoreasoner.tasks import LETTERS, Task, event_text, key_elements_text, thought_text
from videoreasoner.training.data.frames import ClipReader, clip_reader
from videoreasoner.training.recipe import Recipe
from videoreasoner.video.patches import Patches, patchify


@dataclass(frozen=True, eq=False)
class Example:
    """One row, ready for the model.

    Attributes:
        source: the name of the row's file.
        row: the row.
        video: path or URL of the video, resolved.
        duration_s: length of the video in seconds.
        prompt: system text, clip, question and task prefixes.
        patches: the clip as the vision tower takes it.
        targets: token ids that the model is to write for each task; empty in GRPO.
        decode_s: seconds it took to get the frames.
        is_limited: whether the row's event reached beyond the video.
        is_reduced: whether the token limit left fewer frames than the settings ask for.
    """

    source: str
    row: Row
    video: str
    duration_s: float
    prompt: Prompt
    patches: Patches
    targets: Mapping[Task, tuple[int, ...]] = field(default_factory=dict)
    decode_s: float = 0.0
    is_limited: bool = False
    is_reduced: bool = False

    @property
    def tokens(self) -> int:
        """Tokens of the prompt and all targets."""
        return len(self.prompt) + sum(map(len, self.targets.values()))


@dataclass(frozen=True)
class ExampleMaker:
    """How the rows of a training run become examples.

    Attributes:
        tasks: the tasks to ask. For each, the row fields of which a row needs at least one; see `RowFields`.
        max_length: most tokens of an example; a longer one gets fewer frames.
        max_target_length: most tokens of a target; None: examples have prefixes and no targets, as GRPO needs them.
        tokens_per_second: temporal resolution of the model's positions; None counts pairs.
    """

    encoder: PromptEncoder
    reader: ClipReader
    tasks: RowFields
    max_length: int
    max_target_length: int | None
    tokens_per_second: float | None

    def example(self, source: str, row: Row, video: str) -> Example:
        """One row as an example; its video is read.

        Raises:
            RowError, QuestionError, VideoError: the row cannot be used; the message says why.
        """
        question = self.encoder.question(row.question, row.options or ())
        with self.reader.open(video) as opened:
            duration_s = opened.facts.duration_s
            prefixes, targets = prefixes_and_targets(row, self.tasks, self.encoder, duration_s, self.max_target_length)
            clip = opened.read(self.max_length, text_length(question, {**prefixes, **targets}, self.encoder))
        tokens = clip.tokens(self.reader.patches, self.tokens_per_second)
        return Example(
            source,
            row,
            video,
            duration_s,
            Prompt(self.encoder.trunk([tokens]), question, prefixes),
            patchify(clip.frames, self.reader.patches),
            targets,
            clip.decode_s,
            reaches_beyond(row, duration_s),
            clip.is_reduced,
        )

    def dummy(self) -> Example:
        """The smallest example, without targets: two black frames and a full stop.

        Every process must take part in every step. One that has nothing to learn takes part with this example, which
        adds nothing to the loss.
        """
        side = self.reader.patches.factor
        task = next(iter(self.tasks))
        prompt = Prompt(
            self.encoder.trunk([ClipTokens(1, 1, (0,))]),
            self.encoder.question("."),
            {} if self.max_target_length is not None else {task: self.encoder.prefix(task)},
        )
        black = patchify(torch.zeros(2, 3, side, side, dtype=torch.uint8), self.reader.patches)
        return Example("", Row(id="dummy", video="none", question="."), "", 1.0, prompt, black)


def example_maker(recipe: Recipe, checkpoint: Checkpoint, max_target_length: int | None) -> ExampleMaker:
    """How the rows of a recipe become examples for a checkpoint.

    Args:
        max_target_length: see `ExampleMaker`.

    Raises:
        SettingError: the folder of the frame cache cannot be used.
    """
    return ExampleMaker(
        checkpoint.encoder,
        clip_reader(recipe, checkpoint),
        recipe.row_fields,
        recipe.max_length,
        max_target_length,
        checkpoint.tokens_per_second,
    )


def prefixes_and_targets(
    row: Row, tasks: RowFields, encoder: PromptEncoder, duration_s: float, max_target_length: int | None
) -> tuple[dict[Task, tuple[int, ...]], dict[Task, tuple[int, ...]]]:
    """Token ids of the given prefix, or of the target, of each task that a row supports.

    Args:
        tasks, max_target_length: see `ExampleMaker`.

    Raises:
        RowError: the row supports no task, its event lies outside the video, or a target is too long.
    """
    supported = row.usable_tasks(tasks)
    if not supported:
        raise RowError(f"supports none of the tasks {', '.join(tasks)}")
    if max_target_length is not None:
        return {}, target_ids(target_texts(row, supported, encoder, duration_s), encoder, max_target_length)
    if row.event is not None and not reference_events(row, duration_s):
        raise RowError(f"its event has no length inside the video, which ends at {duration_s:g} s")
    return {task: encoder.prefix(task) for task in supported}, {}


def longest_event(row: Row, duration_s: float) -> Span | None:
    """The part of the row's event that lies in the video; of several spans the longest, since one can be written."""
    return max(reference_events(row, duration_s), key=lambda span: span.length_s, default=None)


def reaches_beyond(row: Row, duration_s: float) -> bool:
    """Whether an event of the row reaches beyond the video, by more than rounding."""
    return any(span.end_s > duration_s * 1.01 for span in row.event or ())


def target_texts(row: Row, tasks: Sequence[Task], encoder: PromptEncoder, duration_s: float) -> dict[Task, str]:
    """What the model is to write for each of the tasks.

    Args:
        tasks: tasks that the row supports; see `Row.tasks`.

    Raises:
        RowError: the row's event lies outside the video.
    """
    texts: dict[Task, str] = {}
    for task in tasks:
        if task is Task.EVENT and row.event is not None:
            event = longest_event(row, duration_s)
            if event is None:
                raise RowError(
                    f"its event [{row.event[0].start_s:g}, {row.event[0].end_s:g}] has no length inside the video, "
                    f"which ends at {duration_s:g} s"
                )
            texts[task] = event_text(event, duration_s)
        elif task is Task.KEY_ELEMENTS and row.key_elements is not None:
            texts[task] = key_elements_text(row.key_elements)
        elif task is Task.ANSWER and row.answer is not None:
            texts[task] = _answer_text(row.answer, row, encoder)
        elif task is Task.THINK and row.reasoning is not None and row.answer is not None:
            texts[task] = thought_text(row.reasoning, _answer_text(row.answer, row, encoder))
    return texts


def _answer_text(answer: str, row: Row, encoder: PromptEncoder) -> str:
    options = encoder.prompts.option_texts(row.options or ())
    return options[LETTERS.index(answer)] if options else answer.strip()


def target_ids(texts: Mapping[Task, str], encoder: PromptEncoder, max_length: int) -> dict[Task, tuple[int, ...]]:
    """Token ids of each target: task prefix, text, end token.

    Raises:
        RowError: a target is longer than `max_length` tokens.
    """
    ids = {
        task: (*encoder.prefix(task), *encoder.completion(task, text), encoder.end_id) for task, text in texts.items()
    }
    for task, tokens in ids.items():
        if len(tokens) > max_length:
            raise RowError(
                f"its {task} target has {len(tokens)} tokens, and max_target_length is {max_length}; "
                "shorten it or raise the limit"
            )
    return ids


def text_length(question: Sequence[int], behind: Mapping[Task, Sequence[int]], encoder: PromptEncoder) -> int:
    """Tokens of an example without its visual ones.

    Args:
        behind: the prefixes and targets behind the question.
    """
    trunk = encoder.trunk([ClipTokens(1, 1, (0,))])
    return len(trunk) - 1 + len(question) + sum(map(len, behind.values()))
