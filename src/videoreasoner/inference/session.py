"""One open video and the questions about it: the steps of locate, focus and answer; see reasoner.py."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from videoreasoner.engines.engine import Completion, Engine, Reply
from videoreasoner.errors import FrameError, VideoError
from videoreasoner.inference.answer import Answer, FrameUse, Usage
from videoreasoner.inference.query import Mode, Query
from videoreasoner.inference.stages import OnProgress, StageProgress, ignore
from videoreasoner.inference.warnings import untrained_warnings
from videoreasoner.retrieval.encoder import TextImageEncoder
from videoreasoner.retrieval.keyframes import Keyframe
from videoreasoner.retrieval.search import SearchedFrames, VideoSearch
from videoreasoner.retrieval.search_times import sparse_key_times
from videoreasoner.spans import Span, merge
from videoreasoner.tasks import (
    LETTERS,
    Task,
    parse_choice,
    parse_event,
    parse_key_elements,
    stated_answer,
    without_event_tokens,
)
from videoreasoner.utils.stopwatch import Stopwatch
from videoreasoner.video.reader import VideoReader
from videoreasoner.video.sampling import PAIR, FramePlan, focus_plan, uniform_plan

# Its true time in seconds, and uint8[H, W, 3].
TimedImage = tuple[float, NDArray[np.uint8]]


@dataclass(frozen=True)
class Focus:
    """Where the final pass looks, and why.

    Attributes:
        plan: the frames.
        event: the located event; None where nothing readable was written.
        key_elements: what the model said has to be seen.
        keyframes: where each key element was found.
        key_spans: event and surroundings of keyframes, merged; the plan is dense in them.
        notes: what could not be used, in sentences.
    """

    plan: FramePlan
    event: Span | None = None
    key_elements: list[str] = field(default_factory=list)
    keyframes: list[Keyframe] = field(default_factory=list)
    key_spans: list[Span] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class FinalAnswer:
    """What the final pass answered.

    Attributes:
        text, choice, confidence: see `Answer`.
        notes: what could not be used, in sentences.
    """

    text: str
    choice: str | None = None
    confidence: dict[str, float] | None = None
    notes: list[str] = field(default_factory=list)


class VideoSession:
    """One open video and the questions about it. What one question has computed serves the next one.

    Args:
        engine: runs the model.
        encoder: see `Reasoner`.
        video: the open video; the session does not close it.
        progress: told at the beginning of each stage, and after each frame of the search.
    """

    def __init__(
        self,
        engine: Engine,
        encoder: TextImageEncoder | None,
        video: VideoReader,
        progress: OnProgress = ignore,
    ) -> None:
        self.settings = engine.settings
        self.model = engine.name
        self.video = video
        self.clip = engine.open(video)
        self.stopwatch = Stopwatch()
        self.progress = progress
        # The first use of a time reads the frame table of the video; the first answer reports how long that took.
        started = time.perf_counter()
        self.key_times_s = sparse_key_times(video, self.settings)
        self.uniform = uniform_plan(video.duration_s, self.settings.sampling, self.key_times_s)
        self._opening = {"open": time.perf_counter() - started}
        self.search = None
        if encoder is not None and self.settings.max_key_elements > 0:
            self.search = VideoSearch(encoder, self.settings, self.stopwatch)
        self.searched: SearchedFrames | None = None

    def answer(self, query: Query, mode: Mode) -> Answer:
        """Locate, focus, answer.

        Raises:
            VideoError: the video holds no usable frame.
        """
        started = time.perf_counter()
        before = self._work()
        try:
            if mode == "focus":
                located = self._locate(query)
                self.progress(StageProgress("focus"))
                focus = self._focus(located)
                self.progress(StageProgress("answer"))
                final = self.clip.complete(focus.plan, query.text, query.options, [Task.ANSWER])
                replies = [located, final]
            else:
                self.progress(StageProgress("answer"))
                focus = Focus(self.uniform)
                task = Task.THINK if mode == "think" else Task.ANSWER
                final = self.clip.complete(focus.plan, query.text, query.options, [task])
                replies = [final]
        except FrameError as error:
            raise VideoError(f"{self.video.name}: {error}") from error
        answered = self._read_thought(final, query) if mode == "think" else _read_answer(final, query)
        # A pass of an earlier question may have looked at the video for this one, so each reply says what it knows.
        by_engine = [warning for reply in replies for warning in reply.warnings]
        warnings = list(dict.fromkeys([*by_engine, *untrained_warnings(self.settings, self.model, mode)]))
        if not answered.text.strip():
            warnings.append("The model wrote no answer.")
        work = self._work() - before
        opening, self._opening = self._opening, {}
        completions = {task: written for reply in replies for task, written in reply.completions.items()}
        return Answer(
            video=self.video.name,
            question=query.text,
            options=query.options,
            text=answered.text,
            choice=answered.choice,
            confidence=answered.confidence,
            event=focus.event,
            key_elements=focus.key_elements,
            keyframes=focus.keyframes,
            key_spans=focus.key_spans,
            frames=[
                FrameUse(time_s, bool(dense))
                for time_s, dense in zip(final.frame_times_s, np.repeat(focus.plan.dense, PAIR), strict=True)
            ],
            timing={**opening, **work.seconds, "total": sum(opening.values()) + time.perf_counter() - started},
            usage=Usage(
                frames_decoded=work.frames_decoded,
                pairs_encoded=work.pairs_encoded,
                frames_searched=work.frames_searched,
                tokens_in=sum(reply.tokens_in for reply in replies),
                tokens_out=sum(written.tokens for written in completions.values()),
            ),
            mode=mode,
            model=self.model,
            duration_s=self.video.duration_s,
            settings=self.settings.for_inference(),
            # Every answer about a damaged video says so, because an answer may be read without the others.
            notes=[*query.notes, *warnings, *focus.notes, *self.video.problems, *answered.notes],
            warnings=warnings,
            completions={str(task): written.text for task, written in completions.items()},
        )

    def _locate(self, query: Query) -> Reply:
        """Ask for the key event and the key elements, over evenly spread frames."""
        if self.search is not None and self.searched is None:
            # Searched before the first pass looks at the video, so that the frames of both are decoded in one run.
            wanted_s = self.search.times(self.video)
            frames = self.clip.decode_ahead(self.uniform, wanted_s, self.search.short_side)
            self.searched = self.search.encode(self._counted(frames, len(wanted_s)), self.video.duration_s)
        self.progress(StageProgress("locate"))
        return self.clip.complete(self.uniform, query.text, query.options, [Task.EVENT, Task.KEY_ELEMENTS])

    def _counted(self, frames: Iterator[TimedImage], total: int) -> Iterator[TimedImage]:
        """The searched frames, while their number is reported."""
        self.progress(StageProgress("search", 0, total))
        for done, frame in enumerate(frames, 1):
            yield frame
            self.progress(StageProgress("search", done, total))

    def _focus(self, located: Reply) -> Focus:
        """Turn what the locate pass wrote into a frame plan."""
        settings, duration_s = self.settings, self.video.duration_s
        notes = []
        event = parse_event(located.completions[Task.EVENT].text, duration_s)
        if event is None:
            notes.append("no readable interval was written for the event")
        elements = parse_key_elements(located.completions[Task.KEY_ELEMENTS].text)
        if not elements:
            notes.append("no key element was named")
        keyframes: list[Keyframe] = []
        if self.search is not None and self.searched is not None:
            keyframes = self.search.keyframes(self.searched, elements)
        spans = [Span.around(keyframe.time_s, settings.keyframe_width_s) for keyframe in keyframes]
        if event is not None:
            spans.append(event)
        key_spans = merge(limited for span in spans if (limited := span.limited_to(duration_s)) is not None)
        keyframe_times_s = [keyframe.time_s for keyframe in keyframes]
        plan = focus_plan(duration_s, key_spans, settings.sampling, keyframe_times_s, self.key_times_s)
        if not plan.dense.any():
            notes.append("nothing usable was located, so the frames stay evenly spread")
            key_spans = []
        return Focus(plan, event, elements, keyframes, key_spans, notes)

    def _read_thought(self, final: Reply, query: Query) -> FinalAnswer:
        """The answer that a thought states at its end, and the option that it names."""
        thought: Completion = final.completions[Task.THINK]
        notes = []
        if not thought.finished:
            notes.append(f"the text was cut off at max_thought_tokens ({self.settings.max_thought_tokens})")
        stated = stated_answer(Task.THINK, thought.text)
        if stated is None:
            return FinalAnswer(
                without_event_tokens(thought.text), notes=[*notes, "the reasoning ends without an answer"]
            )
        if not query.options:
            return FinalAnswer(stated, notes=notes)
        choice = parse_choice(stated, query.options)
        if choice is None:
            return FinalAnswer(stated, notes=[*notes, "the written answer names none of the options"])
        return FinalAnswer(query.options[LETTERS.index(choice)], choice, notes=notes)

    def _work(self) -> _Work:
        return _Work(
            self.clip.frames_decoded,
            self.clip.pairs_encoded,
            0 if self.searched is None else len(self.searched),
            {**self.clip.seconds, **self.stopwatch.seconds},
        )


@dataclass(frozen=True)
class _Work:
    """Counters at one moment; the difference of two is the work done in between."""

    frames_decoded: int
    pairs_encoded: int
    frames_searched: int
    seconds: dict[str, float]

    def __sub__(self, earlier: _Work) -> _Work:
        seconds = {stage: total - earlier.seconds.get(stage, 0.0) for stage, total in self.seconds.items()}
        return _Work(
            self.frames_decoded - earlier.frames_decoded,
            self.pairs_encoded - earlier.pairs_encoded,
            self.frames_searched - earlier.frames_searched,
            {stage: spent for stage, spent in seconds.items() if spent > 0},
        )


def _read_answer(final: Reply, query: Query) -> FinalAnswer:
    """The most probable option, or what was written where there are no options."""
    if not query.options:
        return FinalAnswer(without_event_tokens(final.completions[Task.ANSWER].text))
    confidence = _softmax(final.option_log_probs)
    choice = max(confidence, key=confidence.__getitem__)
    return FinalAnswer(query.options[LETTERS.index(choice)], choice, confidence)


def _softmax(log_probs: Sequence[float]) -> dict[str, float]:
    """Probabilities of the options, by letter."""
    top = max(log_probs)
    weights = [math.exp(value - top) for value in log_probs]
    return {LETTERS[i]: weight / sum(weights) for i, weight in enumerate(weights)}
