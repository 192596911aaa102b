"""Outputs sampled for held-out rows while training: is what the model writes readable, and is it right?

Greedy, without the event grammar, on a few rows: the parse rate is what the cold start is for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any

import torch
from accelerate.utils import gather_object
from transformers import TrainerCallback

from videoreasoner.errors import QuestionError, RowError, VideoError
from videoreasoner.models.checkpoint import Checkpoint
from videoreasoner.models.tree_batch import encode_clip, unwrapped
from videoreasoner.models.tree_decoder import Leaf, TreeDecoder
from videoreasoner.rows import Row
from videoreasoner.scoring import score_completion
from videoreasoner.tasks import Task
from videoreasoner.training.data.examples import Example, ExampleMaker
from videoreasoner.training.data.sources import Rows, held_out_fields
from videoreasoner.training.runtime.trainer import TreeTrainer
from videoreasoner.utils.terminal import say


@dataclass(frozen=True)
class HeldOutSample:
    """What the model wrote for one task of one row.

    Attributes:
        is_parsed: whether it can be read, and ended before the length limit.
        score: the value of `score_completion`.
    """

    row: str
    task: Task
    text: str
    is_parsed: bool
    score: float | None


def sample_outputs(checkpoint: Checkpoint, model: Any, example: Example) -> list[HeldOutSample]:
    """Greedy completions for each task of an example.

    Args:
        model: the checkpoint's model with the weights of now; left in the mode that it was in.
    """
    prompt, was_training = example.prompt, model.training
    tasks = list(prompt.prefixes)
    limits = [checkpoint.settings.max_tokens(task) for task in tasks]
    model.eval()
    try:
        with torch.inference_mode():
            features = encode_clip(model, example.patches)
        decoder = TreeDecoder(model, [prompt.trunk], [features], checkpoint.end_ids, checkpoint.banned_ids)
        nodes, parents = prompt.nodes(tasks)
        decoder.add([nodes])
        written = decoder.generate([Leaf(parents[task]) for task in tasks], max(limits))
    finally:
        model.train(was_training)
    # Completions do not see each other, so cutting each at its own limit gives what it would have been alone.
    return [_sample(checkpoint, example, t, ids[:n]) for t, ids, n in zip(tasks, written, limits, strict=True)]


def _sample(checkpoint: Checkpoint, example: Example, task: Task, ids: list[int]) -> HeldOutSample:
    ended = ids[-1] in checkpoint.end_ids
    text = checkpoint.encoder.decode(ids[:-1] if ended else ids)
    score = score_completion(example.row, task, text, example.duration_s)
    return HeldOutSample(example.row.id, task, text, score.is_parsed and ended, score.value)


def sample_metrics(samples: Sequence[HeldOutSample]) -> dict[str, float]:
    """Parse rate, of all samples and of each task; mean IoU of events; accuracy of answers."""
    if not samples:
        return {}
    metrics: dict[str, float] = {"parse_rate": _mean([s.is_parsed for s in samples])}
    for task in Task:
        of_task = [s for s in samples if s.task is task]
        if of_task:
            metrics[f"parse_rate/{task}"] = _mean([s.is_parsed for s in of_task])
            scores = [s.score for s in of_task if s.score is not None]
            if scores:
                metrics[f"{'iou' if task is Task.EVENT else 'accuracy'}/{task}"] = _mean(scores)
    return metrics


class HeldOutSampler(TrainerCallback):
    """Samples every `eval_steps`, before the first step and after the last; writes samples.jsonl and adds metrics.

    Processes share the rows. `why_not` says why nothing is sampled, where that is so.
    """

    def __init__(self, trainer: TreeTrainer) -> None:
        self.trainer, self.run = trainer, trainer.run
        self.why_not = ""
        self._examples: list[Example] | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if not self.run.recipe.eval_data:
            self.why_not = "the recipe has no eval_data"
        elif state.global_step == 0:
            before = self._sample(0)
            if self.run.args.should_save:
                self.run.folder.append("metrics.jsonl", {"step": 0, **before})
        if self.why_not and self.run.args.should_save:
            say(f"no outputs are sampled: {self.why_not}", to_stderr=True)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        due = state.global_step % self.run.recipe.eval_steps == 0 or state.global_step == state.max_steps
        if due and not self.why_not:
            self.trainer.metrics.latest |= self._sample(state.global_step)

    def _sample(self, step: int) -> dict[str, float]:
        checkpoint, examples = self.run.checkpoint, self._held_out()
        with self.trainer.whole_model() as whole:
            mine = [s for example in examples for s in sample_outputs(checkpoint, unwrapped(whole), example)]
        samples = gather_object(mine)
        if self.run.args.should_save:
            self.run.folder.append("samples.jsonl", *({"step": step, **asdict(sample)} for sample in samples))
        return {f"{self.trainer.held_out_prefix}{name}": value for name, value in sample_metrics(samples).items()}

    def _held_out(self) -> list[Example]:
        """This process's share of the first rows that can be used; read once."""
        if self._examples is None:
            recipe, args = self.run.recipe, self.run.args
            rows = [(rows, row) for rows in self.run.held_out for row in rows.rows]
            maker = replace(self.run.dataset.maker, tasks=held_out_fields(recipe.tasks), max_target_length=None)
            wanted = len(range(args.process_index, recipe.eval_rows, args.world_size))
            mine = rows[args.process_index :: args.world_size]
            self._examples = list(islice(_usable(maker, mine), wanted))
        return self._examples


def _usable(maker: ExampleMaker, rows: Sequence[tuple[Rows, Row]]) -> Iterator[Example]:
    """Examples of the rows that can be used; the others are named on stderr, since training does not need them."""
    for source, row in rows:
        try:
            yield maker.example(source.name, row, row.video_path(source.video_root))
        except (RowError, QuestionError, VideoError) as error:
            say(f"eval_data: {source.name}, row {row.id} is left out: {error}", to_stderr=True)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
