"""Outputs sampled while training: is what the model writes readable, and is it right?

Greedy, without the event grammar, on a few held-out rows: the parse rate is what the cold start is for.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import torch
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType, gather_object
from transformers import TrainerCallback

from videoreasoner.errors import QuestionError, RowError, VideoError
from videoreasoner.models.checkpoint import Checkpoint
from videoreasoner.models.decoding import TreeDecoder
from videoreasoner.models.tree_decoder import Leaf
from videoreasoner.rows import Row
from videoreasoner.spans import best_iou
from videoreasoner.tasks import Task, judged_by, parse_choice, parse_event, parse_key_elements, stated_answer
from videoreasoner.training.data.queries import Query, QueryMaker
from videoreasoner.training.data.sources import Rows, read_sources
from videoreasoner.training.grpo.rollouts import encode_clip
from videoreasoner.training.recipe import Recipe


@dataclass(frozen=True)
class Sample:
    """What the model wrote for one task of one row.

    Attributes:
        is_parsed: whether it can be read back and ended by itself.
        score: IoU of the event, or 1 for the right answer; None where nothing can be compared.
    """

    row: str
    task: Task
    text: str
    is_parsed: bool
    score: float | None


def read_back(row: Row, task: Task, text: str, duration_s: float) -> tuple[bool, float | None]:
    """Whether a completion can be read, and how good it is. What cannot be read scores 0."""
    if task is Task.EVENT:
        event = parse_event(text, duration_s)
        return event is not None, best_iou(event, row.event) if row.event else None
    if task is Task.KEY_ELEMENTS:
        return bool(parse_key_elements(text)), None
    answer = stated_answer(task, text) or ""
    if row.options:
        choice = parse_choice(answer, row.options)
        return choice is not None, float(choice == row.answer)
    return bool(answer), float(answer.casefold() == (row.answer or "").strip().casefold())


def sampled_by(tasks: Sequence[Task]) -> dict[Task, frozenset[Task]]:
    """Each task, with those of which a row must have one's field. Key elements are only read back: any will do."""
    return {task: frozenset(Task if task is Task.KEY_ELEMENTS else {judged_by(task)}) for task in tasks}


def read_held_out(recipe: Recipe, needs_videos: bool = True) -> list[Rows]:
    """The rows that outputs are sampled for.

    Raises:
        RowError: a file of `eval_data` is not there, or a task has no row that could judge it.
    """
    if not recipe.eval_data:
        return []
    fields = sampled_by(recipe.tasks)
    usable = [task for task in Task if any(task in wanted for wanted in fields.values())]
    needed = list(dict.fromkeys(judged_by(task) for task in recipe.tasks if task is not Task.KEY_ELEMENTS))
    return read_sources(recipe.eval_data, usable, recipe.video_root, needs_videos, needed)


def sample_outputs(checkpoint: Checkpoint, model: Any, query: Query) -> list[Sample]:
    """Greedy completions for each task of a query.

    Args:
        model: the checkpoint's model, as it is trained by now; left in the mode that it was in.
    """
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            features = encode_clip(model, query.patches)
        decoder = TreeDecoder(model, query.trunk, features, checkpoint.end_ids, checkpoint.banned_ids)
        [asked] = decoder.add([(query.question, -1)])
        branches = decoder.add([(prefix, asked) for prefix in query.prefixes.values()])
        limits = [checkpoint.settings.max_tokens(task) for task in query.prefixes]
        written = decoder.generate([Leaf(branch) for branch in branches], max(limits))
    finally:
        model.train(was_training)
    # Leaves do not see each other: cut here, they are what each limit by itself would have left.
    return [_sample(checkpoint, query, t, ids[:n]) for t, ids, n in zip(query.prefixes, written, limits, strict=True)]


def _sample(checkpoint: Checkpoint, query: Query, task: Task, ids: list[int]) -> Sample:
    ended = ids[-1] in checkpoint.end_ids
    text = checkpoint.encoder.decode(ids[:-1] if ended else ids)
    is_parsed, score = read_back(query.row, task, text, query.duration_s)
    return Sample(query.row.id, task, text, is_parsed and ended, score)


def figures(samples: Sequence[Sample]) -> dict[str, float]:
    """Parse rate, of all samples and of each task; mean IoU of events; accuracy of answers."""
    if not samples:
        return {}
    found: dict[str, float] = {"parse_rate": _mean([s.is_parsed for s in samples])}
    for task in Task:
        of_task = [s for s in samples if s.task is task]
        if of_task:
            found[f"parse_rate/{task}"] = _mean([s.is_parsed for s in of_task])
            scores = [s.score for s in of_task if s.score is not None]
            if scores:
                found[f"{'iou' if task is Task.EVENT else 'accuracy'}/{task}"] = _mean(scores)
    return found


class OutputSampler(TrainerCallback):
    """Samples every `eval_steps`, before the first step and after the last; writes samples.jsonl and hands figures on.

    Processes share the rows. Where weights are split over processes (FSDP, ZeRO-3) decoding would need them all at
    every token; there nothing is sampled, and `why_not` says so.
    """

    def __init__(self, run: Any, prefix: str = "") -> None:
        self.run, self.prefix = run, prefix
        self.why_not = ""
        self._queries: list[Query] | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if not self.run.recipe.eval_data:
            self.why_not = "the recipe has no eval_data"
        elif has_split_weights(AcceleratorState()):
            self.why_not = "weights are split over processes"
        elif state.global_step == 0:
            before = self._sample(0)
            if self.run.args.should_save:
                self.run.folder.append("metrics.jsonl", {"step": 0, **before})
        if self.why_not and self.run.args.should_save:
            print(f"no outputs are sampled: {self.why_not}", file=sys.stderr)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        due = state.global_step % self.run.recipe.eval_steps == 0 or state.global_step == state.max_steps
        if due and not self.why_not:
            self.run.figures |= self._sample(state.global_step)

    def _sample(self, step: int) -> dict[str, float]:
        checkpoint = self.run.checkpoint
        mine = [sample for query in self._held_out() for sample in sample_outputs(checkpoint, checkpoint.model, query)]
        samples = gather_object(mine)
        if self.run.args.should_save:
            self.run.folder.append("samples.jsonl", *({"step": step, **asdict(sample)} for sample in samples))
        return {f"{self.prefix}{name}": value for name, value in figures(samples).items()}

    def _held_out(self) -> list[Query]:
        """This process's share of the first rows that can be used; read once."""
        if self._queries is None:
            recipe, args, lessons = self.run.recipe, self.run.args, self.run.dataset.lessons
            rows = [(rows, row) for rows in self.run.held_out for row in rows.rows]
            fields = sampled_by(recipe.tasks)
            queries = QueryMaker(lessons.encoder, lessons.reader, fields, recipe.max_length, lessons.tokens_per_second)
            wanted = len(range(args.process_index, recipe.eval_rows, args.world_size))
            mine = rows[args.process_index :: args.world_size]
            self._queries = list(islice(_usable(queries, mine), wanted))
        return self._queries


def has_split_weights(state: Any) -> bool:
    """Whether no process has all weights: FSDP, or ZeRO of stage 3.

    Args:
        state: accelerate's.
    """
    plugin = state.deepspeed_plugin
    return state.distributed_type is DistributedType.FSDP or (plugin is not None and plugin.zero_stage == 3)


def _usable(queries: QueryMaker, rows: Sequence[tuple[Rows, Row]]) -> Iterator[Query]:
    """Queries of the rows that can be used; the others are named on stderr, because training needs none of them."""
    for source, row in rows:
        try:
            yield queries.example(source.name, row, row.video_path(source.video_root))
        except (RowError, QuestionError, VideoError) as error:
            print(f"eval_data: {source.name}, row {row.id} is left out: {error}", file=sys.stderr)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
