"""Locate, focus, answer: the pipeline from a video and a question to an answer with its evidence.

    locate   one pass over evenly spread frames; two branches say where the key event is and what has to be seen
    focus    a text-image encoder finds the key elements' frames; event and keyframes become key spans
    answer   one pass over frames that are dense in the key spans and sparse elsewhere

(Paper, section "Multimodal Inference Pipeline".) Two yardsticks look once, at evenly spread frames: `mode="direct"`
answers at once, and `mode="think"` reasons in text first, as Video-R1 (arXiv 2503.21776) does.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from videoreasoner.engines.engine import ClipSession, Completion, Engine, Reply
from videoreasoner.engines.local import LocalEngine
from videoreasoner.errors import VideoError
from videoreasoner.inference.answer import Answer, FrameUse, Usage
from videoreasoner.inference.query import Query, check_mode
from videoreasoner.models.checkpoint import find_folder, load_checkpoint
from videoreasoner.retrieval.encoder import TextImageEncoder, load_encoder
from videoreasoner.retrieval.keyframes import Keyframe, retrieval_times, select_keyframes
from videoreasoner.settings import Settings
from videoreasoner.spans import Span, merge
from videoreasoner.tasks import LETTERS, Task, parse_choice, parse_event, parse_key_elements, stated_answer
from videoreasoner.utils.stopwatch import Stopwatch
from videoreasoner.video.isolated.file import DEFAULT_TIME_LIMIT_S, GuardedVideoFile
from videoreasoner.video.isolated.process import start_decoder
from videoreasoner.video.reader import VideoReader
from videoreasoner.video.sampling import PAIR, FramePlan, focus_plan, uniform_plan

# Of pixels handed to the text-image encoder at a time: an hour of video is never in memory whole, nor many 4K frames.
_SEARCH_BYTES = 2**28


class Reasoner:
    """Answers questions about videos and shows its evidence.

    Args:
        engine: a loaded model.
        encoder: finds the frames that show a key element; without one, focus uses the event alone.
        video_time_limit_s: how long the decoder of a video may keep one call waiting before it is stopped: see
            `GuardedVideoFile`.
    """

    def __init__(
        self,
        engine: Engine,
        encoder: TextImageEncoder | None = None,
        *,
        video_time_limit_s: float = DEFAULT_TIME_LIMIT_S,
    ) -> None:
        self.engine = engine
        self.encoder = encoder
        self.video_time_limit_s = video_time_limit_s

    @classmethod
    def from_pretrained(
        cls,
        model: str = "tiny",
        *,
        device: str = "auto",
        dtype: torch.dtype | None = None,
        constrain_event: bool = True,
        video_time_limit_s: float = DEFAULT_TIME_LIMIT_S,
        **overrides: Any,
    ) -> Reasoner:
        """Load a shipped model, a folder or a Hugging Face id.

        Args:
            model: "tiny" ships with the package; any Qwen2-VL or Qwen2.5-VL checkpoint goes in its place.
            device, dtype: see `load_checkpoint`.
            constrain_event: decode the event under its grammar.
            video_time_limit_s: see `Reasoner`.
            overrides: any field of `Settings`; `encoder="none"` does without a text-image encoder.

        Raises:
            CheckpointError, SettingError, MissingExtraError
        """
        # Starts while the model loads.
        start_decoder()
        checkpoint = load_checkpoint(model, device, dtype, **overrides)
        engine = LocalEngine(checkpoint, constrain_event=constrain_event)
        wanted = checkpoint.settings.encoder
        if wanted is None or wanted == "none":
            return cls(engine, video_time_limit_s=video_time_limit_s)
        encoder = load_encoder(_encoder_spec(wanted), str(checkpoint.model.device))
        return cls(engine, encoder, video_time_limit_s=video_time_limit_s)

    @property
    def settings(self) -> Settings:
        return self.engine.settings

    def ask(
        self,
        video: str | Path,
        question: str,
        options: Sequence[str] = (),
        mode: str = "focus",
    ) -> Answer:
        """Answer one question about one video.

        Raises:
            VideoError: the video cannot be used.
            QuestionError: the question or its options cannot be asked.
            SettingError: the mode is unknown.
        """
        [answer] = self.ask_many(video, [Query(question, tuple(options))], mode)
        return answer

    def ask_many(self, video: str | Path, queries: Sequence[Query], mode: str = "focus") -> list[Answer]:
        """Answer several questions about one video; what they have in common is done once."""
        return list(self.iter_answers(video, queries, mode))

    def iter_answers(self, video: str | Path, queries: Sequence[Query], mode: str = "focus") -> Iterator[Answer]:
        """As `ask_many`, one answer at a time."""
        check_mode(mode)
        name = os.fspath(video)
        with GuardedVideoFile(video, self.video_time_limit_s) as video_file:
            session = _Session(self, video_file, name)
            for query in queries:
                try:
                    answer = session.answer(query, mode)
                except VideoError as error:
                    # What looks at pixels does not know which file they came from.
                    if name in str(error):
                        raise
                    raise VideoError(f"{name}: {error}") from error
                yield answer


@dataclass(frozen=True)
class _Focus:
    """Where the final pass looks, and why."""

    plan: FramePlan
    event: Span | None = None
    key_elements: list[str] = field(default_factory=list)
    keyframes: list[Keyframe] = field(default_factory=list)
    key_spans: list[Span] = field(default_factory=list)


class _Session:
    """One video and the questions about it."""

    def __init__(self, reasoner: Reasoner, video_file: VideoReader, name: str) -> None:
        self.settings = reasoner.engine.settings
        self.model = reasoner.engine.name
        self.encoder = reasoner.encoder
        self.video_file, self.name = video_file, name
        self.clip: ClipSession = reasoner.engine.open(video_file)
        # Where sparse frames may stand; true times from here on, so nothing later has to know about key frames.
        self.key_times_s = video_file.key_times_s if self.settings.sparse_seek == "keyframe" else np.empty(0)
        self.uniform: FramePlan = uniform_plan(video_file.duration_s, self.settings.sampling, self.key_times_s)
        self.stopwatch = Stopwatch()
        self._searched: tuple[NDArray[np.float64], torch.Tensor] | None = None

    def answer(self, query: Query, mode: str) -> Answer:
        started = time.perf_counter()
        before = self._work()
        notes: list[str] = []
        replies: list[Reply] = []
        focus = _Focus(plan=self.uniform)
        if mode == "focus":
            self._search()
            located = self.clip.complete(self.uniform, query.text, query.options, [Task.EVENT, Task.KEY_ELEMENTS])
            replies.append(located)
            focus = self._focus(located, notes)
        asked = Task.THINK if mode == "think" else Task.ANSWER
        final = self.clip.complete(focus.plan, query.text, query.options, [asked])
        replies.append(final)
        # Each answer says it, also the second one about a damaged video: an answer is read on its own.
        notes += self.video_file.problems

        confidence, text = None, final.completions[asked].text
        if asked is Task.THINK:
            choice, text = self._read(final.completions[asked], query, notes)
        else:
            confidence = _normalised(final.option_log_probs) if query.options else None
            choice = max(confidence, key=confidence.__getitem__) if confidence else None
        if choice is not None:
            text = query.options[LETTERS.index(choice)]
        written = {t: c for reply in replies for t, c in reply.completions.items()}
        spent = self._work() - before
        timing = {k: v for k, v in spent.seconds.items() if v > 0}
        return Answer(
            video=self.name,
            question=query.text,
            options=query.options,
            text=text,
            choice=choice,
            confidence=confidence,
            event=focus.event,
            key_elements=focus.key_elements,
            keyframes=focus.keyframes,
            key_spans=focus.key_spans,
            frames=[
                FrameUse(t, bool(dense))
                for t, dense in zip(final.frame_times_s, np.repeat(focus.plan.dense, PAIR), strict=True)
            ],
            timing={**timing, "total": time.perf_counter() - started},
            usage=Usage(
                frames_decoded=spent.frames_decoded,
                pairs_encoded=spent.pairs_encoded,
                frames_searched=spent.frames_searched,
                tokens_in=sum(reply.tokens_in for reply in replies),
                tokens_out=sum(c.tokens for c in written.values()),
            ),
            mode=mode,
            model=self.model,
            duration_s=self.video_file.duration_s,
            settings=self.settings.looking(),
            notes=notes,
            completions={str(task): completion.text for task, completion in written.items()},
        )

    def _read(self, thought: Completion, query: Query, notes: list[str]) -> tuple[str | None, str]:
        """The option that a thought ends with, and the answer as it was written; says what of it was unusable."""
        if not thought.finished:
            notes.append(f"the text was cut off at max_thought_tokens ({self.settings.max_thought_tokens})")
        answer = stated_answer(Task.THINK, thought.text)
        if answer is None:
            notes.append("the reasoning ends without an answer")
            return None, thought.text
        choice = parse_choice(answer, query.options)
        if query.options and choice is None:
            notes.append("the written answer names none of the options")
        return choice, answer

    def _focus(self, located: Reply, notes: list[str]) -> _Focus:
        """Turn what the locate pass wrote into a frame plan, and say what of it was unusable."""
        settings, duration_s = self.settings, self.video_file.duration_s
        event = parse_event(located.completions[Task.EVENT].text, duration_s)
        if event is None:
            notes.append("the event branch wrote no readable interval")
        elements = parse_key_elements(located.completions[Task.KEY_ELEMENTS].text)
        if not elements:
            notes.append("the key-element branch named nothing")
        keyframes = self._keyframes(elements)
        around = [Span.around(k.time_s, settings.keyframe_width_s) for k in keyframes]
        wanted = [event, *around] if event else around
        spans = merge(c for s in wanted if (c := s.clipped(duration_s)) is not None)
        plan = focus_plan(duration_s, spans, settings.sampling, [k.time_s for k in keyframes], self.key_times_s)
        if not plan.dense.any():
            notes.append("nothing usable was located, so the frames stay evenly spread")
            spans = []
        return _Focus(plan, event, elements, keyframes, spans)

    def _keyframes(self, elements: list[str]) -> list[Keyframe]:
        settings = self.settings
        if self.encoder is None or self._searched is None or not elements:
            return []
        times, images = self._searched
        with self.stopwatch.stage("retrieve"):
            looked_for = elements[: settings.max_key_elements]
            return select_keyframes(
                self.encoder.encode_texts(looked_for),
                images,
                times,
                looked_for,
                segment_frames=settings.retrieval_segment_frames,
                max_elements=settings.max_key_elements,
                duration_s=self.video_file.duration_s,
            )

    def _search(self) -> None:
        """Features of the frames in which key elements are looked for; once a video.

        Before anything is located, so that these frames and those of the first pass are decoded in one run.
        """
        settings = self.settings
        if self.encoder is None or settings.max_key_elements == 0 or self._searched is not None:
            return
        wanted = retrieval_times(
            self.video_file.duration_s, settings.retrieval_rate_fps, settings.retrieval_max_frames, self.key_times_s
        )
        times: list[float] = []
        features: list[torch.Tensor] = []
        batch: list[NDArray[np.uint8]] = []
        for time_s, image in self.clip.decode_ahead(self.uniform, wanted):
            times.append(time_s)
            batch.append(image)
            if len(batch) * image.nbytes >= _SEARCH_BYTES or len(times) == len(wanted):
                with self.stopwatch.stage("retrieve"):
                    features.append(self.encoder.encode_images(np.stack(batch)))
                batch.clear()
        self._searched = np.asarray(times), torch.cat(features)

    def _work(self) -> _Work:
        return _Work(
            self.clip.frames_decoded,
            self.clip.pairs_encoded,
            0 if self._searched is None else len(self._searched[0]),
            {**self.clip.seconds, **self.stopwatch.seconds},
        )


@dataclass(frozen=True)
class _Work:
    """Counters at one moment; the difference of two is what happened in between."""

    frames_decoded: int
    pairs_encoded: int
    frames_searched: int
    seconds: dict[str, float]

    def __sub__(self, earlier: _Work) -> _Work:
        return _Work(
            self.frames_decoded - earlier.frames_decoded,
            self.pairs_encoded - earlier.pairs_encoded,
            self.frames_searched - earlier.frames_searched,
            {k: v - earlier.seconds.get(k, 0.0) for k, v in self.seconds.items()},
        )


def _normalised(log_probs: Sequence[float]) -> dict[str, float]:
    """Softmax over the options, by letter."""
    top = max(log_probs)
    weights = [math.exp(value - top) for value in log_probs]
    return {LETTERS[i]: weight / sum(weights) for i, weight in enumerate(weights)}


def _encoder_spec(name: str) -> str:
    """A shipped encoder is named as a shipped model is."""
    return name if name.startswith("open_clip:") else str(find_folder(name))
