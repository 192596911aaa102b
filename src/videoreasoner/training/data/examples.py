"""A row and its clip -> prompt trees with targets. Pure.

The trunk is the system text and the clip. The question is its child, and each task that the row supports is a child of
the question: task prefix, target and end token in one node, all of it trained (paper, section "Multi-task Cold-start
SFT"). Trunk, visual tokens and question never carry loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from videoreasoner.errors import RowError
from videoreasoner.models.positions import ClipTokens
from videoreasoner.models.prompt_encoder import PromptEncoder
from videoreasoner.models.prompt_tree import PackedTree, PromptTree
from videoreasoner.rows import Row
from videoreasoner.spans import Span
from videoreasoner.tasks import LETTERS, Task, event_text, key_elements_text, thought_text


@dataclass(frozen=True)
class Target:
    """What a model is to write.

    Attributes:
        task: for which task.
        tree: number of the tree that holds it.
        node: its node there.
    """

    task: Task
    tree: int
    node: int


@dataclass(frozen=True, eq=False)
class Lesson:
    """The trees of one row: one, or one for each target where the prompt is not shared."""

    trees: list[PackedTree]
    targets: list[Target]


def longest_event(row: Row, duration_s: float) -> Span | None:
    """The part of the row's event that lies in the video; of several spans the longest, because one can be written."""
    inside = [span.clipped(duration_s) for span in row.event or ()]
    return max((span for span in inside if span is not None), key=lambda span: span.length_s, default=None)


def reaches_beyond(row: Row, duration_s: float) -> bool:
    """Whether an event of the row reaches beyond the video, by more than rounding."""
    return any(span.end_s > duration_s * 1.01 for span in row.event or ())


def target_texts(row: Row, tasks: Sequence[Task], encoder: PromptEncoder, duration_s: float) -> dict[Task, str]:
    """What the model is to write for each of the tasks that the row supports.

    Raises:
        RowError: the row supports none of them, or its event lies outside the video.
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
    if not texts:
        raise RowError(f"supports none of the tasks {', '.join(tasks)}")
    return texts


def _answer_text(answer: str, row: Row, encoder: PromptEncoder) -> str:
    options = encoder.prompts.option_texts(row.options or ())
    return options[LETTERS.index(answer)] if options else answer.strip()


def completions(texts: dict[Task, str], encoder: PromptEncoder, max_length: int) -> dict[Task, tuple[int, ...]]:
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


def text_length(question: Sequence[int], targets: dict[Task, tuple[int, ...]], encoder: PromptEncoder) -> int:
    """Tokens of a row but for its visual ones."""
    trunk = encoder.trunk([ClipTokens(1, 1, (0,))])
    return len(trunk) - 1 + len(question) + sum(map(len, targets.values()))


def lesson(
    question: tuple[int, ...],
    targets: dict[Task, tuple[int, ...]],
    clip: ClipTokens,
    encoder: PromptEncoder,
    shared_prompt: bool = True,
) -> Lesson:
    """The trees of one row.

    Args:
        shared_prompt: one tree for all targets; off, the prompt is repeated for each of them.
    """
    groups = [targets] if shared_prompt else [{task: tokens} for task, tokens in targets.items()]
    trees: list[PackedTree] = []
    placed: list[Target] = []
    for number, group in enumerate(groups):
        tree = PromptTree(encoder.trunk([clip]))
        asked = tree.add(question)
        placed += [Target(task, number, tree.add(tokens, asked)) for task, tokens in group.items()]
        trees.append(tree.pack())
    return Lesson(trees, placed)
