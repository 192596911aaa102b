"""Rows -> queries: what a policy is asked, and on which frames."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from videoreasoner.errors import RowError
from videoreasoner.models.prompt_encoder import PromptEncoder
from videoreasoner.models.prompt_tree import Trunk
from videoreasoner.rows import Row
from videoreasoner.tasks import Task
from videoreasoner.training.data.examples import reaches_beyond, text_length
from videoreasoner.training.data.frames import ClipReader
from videoreasoner.video.patches import Patches, patchify


@dataclass(frozen=True, eq=False)
class Query:
    """A row that is ready to be asked.

    Attributes:
        source: the name of the row's file.
        row: the row; its tasks' fields are what completions are judged by.
        video: path or URL of the video, resolved.
        duration_s: length of the video in seconds.
        trunk: system text and clip.
        patches: what the vision tower takes of the clip.
        question: token ids of the rest of the user's turn.
        prefixes: token ids of each task's prefix; only these tasks are asked.
        decode_s: seconds it took to get the frames.
        is_clipped: whether the event of the row reached beyond the video.
        is_reduced: whether the token limit left fewer frames than the settings ask for.
    """

    source: str
    row: Row
    video: str
    duration_s: float
    trunk: Trunk
    patches: Patches
    question: tuple[int, ...]
    prefixes: dict[Task, tuple[int, ...]]
    decode_s: float = 0.0
    is_clipped: bool = False
    is_reduced: bool = False

    @property
    def tokens(self) -> int:
        """Tokens of the prompt: trunk, question and all prefixes."""
        return len(self.trunk) + len(self.question) + sum(map(len, self.prefixes.values()))


def asked(
    row: Row, tasks: Mapping[Task, frozenset[Task]], encoder: PromptEncoder, duration_s: float
) -> tuple[tuple[int, ...], dict[Task, tuple[int, ...]]]:
    """Token ids of the question of a row, and of the prefix of each task that it can be judged by.

    Args:
        tasks: as of `QueryMaker`.

    Raises:
        RowError: there is no such task, or its event lies outside the video.
        QuestionError: the question cannot be asked.
    """
    supported = [task for task, fields in tasks.items() if fields & row.tasks()]
    if not supported:
        raise RowError(f"supports none of the tasks {', '.join(tasks)}")
    if row.event is not None and not any(span.clipped(duration_s) for span in row.event):
        raise RowError(f"its event has no length inside the video, which ends at {duration_s:g} s")
    return encoder.question(row.question, row.options or ()), {task: encoder.prefix(task) for task in supported}


@dataclass(frozen=True)
class QueryMaker:
    """How rows of one checkpoint become queries. Unlike in the cold start, the prefix is given and carries no loss.

    Attributes:
        tasks: what is asked, each with the tasks of which a row must have one's field to be judged.
        max_length: most tokens of a prompt: trunk, question and all prefixes. Completions come on top.
        tokens_per_second: temporal resolution of the model's positions; None counts pairs.
    """

    encoder: PromptEncoder
    reader: ClipReader
    tasks: Mapping[Task, frozenset[Task]]
    max_length: int
    tokens_per_second: float | None

    def example(self, source: str, row: Row, video: str) -> Query:
        """One row as a query; its video is read.

        Raises:
            RowError, QuestionError, VideoError: the row cannot be used; the message says why.
        """
        with self.reader.video_file(video) as video_file:
            duration_s = video_file.facts.duration_s
            question, prefixes = asked(row, self.tasks, self.encoder, duration_s)
            clip = video_file.read(self.max_length, text_length(question, prefixes, self.encoder))
        return Query(
            source,
            row,
            video,
            duration_s,
            self.encoder.trunk([clip.tokens(self.reader.patches, self.tokens_per_second)]),
            patchify(clip.frames, self.reader.patches),
            question,
            prefixes,
            clip.decode_s,
            reaches_beyond(row, duration_s),
            clip.is_reduced,
        )
