"""The engine that runs a checkpoint in this process, on transformers; each pass is one prompt tree."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from videoreasoner.engines.engine import Completion, Reply
from videoreasoner.errors import CheckpointError
from videoreasoner.models.checkpoint import Checkpoint, load_checkpoint
from videoreasoner.models.clip_features import ClipFeatures, EncodedClip
from videoreasoner.models.familiarity import Familiarity
from videoreasoner.models.grammar import TokenTrie, event_grammar
from videoreasoner.models.prompt_tree import prompt_nodes
from videoreasoner.models.tree_decoder import Leaf, TreeDecoder
from videoreasoner.settings import Settings
from videoreasoner.tasks import Task
from videoreasoner.utils.hashing import hash_checkpoint
from videoreasoner.utils.stopwatch import Stopwatch, device_wait
from videoreasoner.video.reader import VideoReader
from videoreasoner.video.sampling import FramePlan


class LocalEngine:
    """See `Engine`; runs in this process.

    Args:
        checkpoint: what `load_checkpoint` returned.
        settings: used in place of the checkpoint's own.
        constrain_event: decode the event under its grammar, so that it can always be read. Turn it off to measure
            how often the model itself writes a readable event.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        settings: Settings | None = None,
        constrain_event: bool = True,
    ) -> None:
        self.checkpoint = checkpoint
        self.name = checkpoint.name
        self.settings = settings or checkpoint.settings
        self.constrain_event = constrain_event
        self.familiarity = Familiarity.load(checkpoint.folder)

    @classmethod
    def from_pretrained(cls, name: str, device: str = "auto", dtype: torch.dtype | None = None) -> LocalEngine:
        """See `load_checkpoint`."""
        return cls(load_checkpoint(name, device, dtype))

    def identity(self) -> dict[str, Any]:
        """See `Engine.identity`. The first call reads all files of the checkpoint."""
        return {"model": self.name, "model_hash": self._model_hash, "constrain_event": self.constrain_event}

    @cached_property
    def _model_hash(self) -> str | None:
        folder = self.checkpoint.folder
        return None if folder is None else hash_checkpoint(folder)

    @cached_property
    def event_grammar(self) -> TokenTrie:
        """The tokens that may follow each other in an event."""
        return event_grammar(self.checkpoint.encoder)

    def open(self, video: VideoReader) -> LocalClipSession:
        """See `Engine.open`."""
        return LocalClipSession(self, video)


class LocalClipSession:
    """See `ClipSession`. Keeps the pair features of the video, and the prefilled clip of the sparse plan."""

    def __init__(self, engine: LocalEngine, video: VideoReader) -> None:
        self.engine = engine
        checkpoint = engine.checkpoint
        self._stopwatch = Stopwatch(device_wait(checkpoint.model.device))
        self._features = ClipFeatures(
            checkpoint.model,
            video,
            checkpoint.patches,
            checkpoint.tokens_per_second,
            self._stopwatch,
        )
        self._sparse: tuple[bytes, EncodedClip, TreeDecoder] | None = None

    @property
    def seconds(self) -> dict[str, float]:
        return dict(self._stopwatch.seconds)

    @property
    def frames_decoded(self) -> int:
        return self._features.frames_decoded

    @property
    def pairs_encoded(self) -> int:
        return self._features.pairs_encoded

    def decode_ahead(
        self, plan: FramePlan, also_s: NDArray[np.float64], short_side: int | None = None
    ) -> Iterator[tuple[float, NDArray[np.uint8]]]:
        """See `ClipSession.decode_ahead`."""
        return self._features.decode_ahead(plan, also_s, short_side)

    def complete(self, plan: FramePlan, question: str, options: Sequence[str], tasks: Sequence[Task]) -> Reply:
        """See `ClipSession.complete`."""
        encoder = self.engine.checkpoint.encoder
        clip, decoder, tokens_in = self._prefill(plan)
        before = decoder.columns
        with self._stopwatch.stage("prefill"):
            # The question and all task prefixes go through the model in one pass.
            nodes, prefixes = prompt_nodes(
                encoder.question(question, options), {task: encoder.prefix(task) for task in tasks}
            )
            decoder.add([nodes])
        tokens_in += decoder.columns - before
        log_probs: tuple[float, ...] = ()
        with self._stopwatch.stage("generate"):
            if options and Task.ANSWER in tasks:
                log_probs = self._score(decoder, prefixes[Task.ANSWER], options)
            starts = [Leaf(prefixes[task], self._grammar(task)) for task in tasks]
            limits = [self.engine.settings.max_tokens(task) for task in tasks]
            written = decoder.generate(starts, max(limits))
        decoder.forget()
        # Completions do not see each other, so cutting one here gives what its own limit would have given.
        completions = {
            task: self._completion(tokens[:limit]) for task, tokens, limit in zip(tasks, written, limits, strict=True)
        }
        return Reply(completions, log_probs, clip.frame_times_s, tokens_in, self._warnings(plan, clip))

    def _warnings(self, plan: FramePlan, clip: EncodedClip) -> tuple[str, ...]:
        """What the model cannot know about the video. A pass with dense frames shows too little of it to say."""
        familiarity = self.engine.familiarity
        if familiarity is None or plan.dense.any():
            return ()
        return familiarity.warnings(clip.features.view(len(plan), -1, clip.features.shape[-1]))

    def _prefill(self, plan: FramePlan) -> tuple[EncodedClip, TreeDecoder, int]:
        """The plan's clip, a decoder that has read it, and how many tokens were read now; a sparse plan's are kept."""
        key = plan.pairs_s.tobytes()
        if self._sparse is not None and self._sparse[0] == key:
            return self._sparse[1], self._sparse[2], 0
        checkpoint = self.engine.checkpoint
        clip = self._features.encode(plan)
        with self._stopwatch.stage("prefill"):
            decoder = TreeDecoder(
                checkpoint.model,
                [checkpoint.encoder.trunk([clip.tokens])],
                [clip.features],
                checkpoint.end_ids,
                checkpoint.banned_ids,
            )
        if not decoder.is_finite:
            raise CheckpointError(
                f"{checkpoint.name}: the model gives values that are not finite; its weights are damaged, or dtype is "
                "too narrow for them"
            )
        if not plan.dense.any():
            self._sparse = (key, clip, decoder)
        return clip, decoder, decoder.columns

    def _grammar(self, task: Task) -> TokenTrie | None:
        if task is Task.EVENT and self.engine.constrain_event:
            return self.engine.event_grammar
        return None

    def _score(self, decoder: TreeDecoder, prefix: int, options: Sequence[str]) -> tuple[float, ...]:
        encoder = self.engine.checkpoint.encoder
        texts = encoder.prompts.option_texts(options)
        # The words of one option may begin those of another, so the end of the turn is scored as well. Letters differ.
        end = (encoder.end_id,) if encoder.prompts.answer_style == "words" else ()
        sequences = [(*encoder.completion(Task.ANSWER, text), *end) for text in texts]
        return tuple(float(scores.sum()) for scores in decoder.score(sequences, prefix))

    def _completion(self, tokens: Sequence[int]) -> Completion:
        checkpoint = self.engine.checkpoint
        text = checkpoint.encoder.decode([token for token in tokens if token not in checkpoint.end_ids])
        return Completion(text, len(tokens), tokens[-1] in checkpoint.end_ids)
