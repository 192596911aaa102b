"""Locate, focus, answer: the pipeline from a video and a question to an answer with its evidence.

    locate   one pass over evenly spread frames; the model writes when the key event is and what has to be seen
    focus    a text-image encoder finds the key elements' frames; event and keyframes become key spans
    answer   one pass over frames that are dense in the key spans and sparse elsewhere

(Paper, section "Multimodal Inference Pipeline".) Two baselines make one pass over evenly spread frames: `mode="direct"`
answers without locating, and `mode="think"` reasons in text first, as Video-R1 (arXiv 2503.21776) does.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch

from videoreasoner.engines.engine import Engine
from videoreasoner.engines.local import LocalEngine
from videoreasoner.errors import VideoError
from videoreasoner.inference.answer import Answer
from videoreasoner.inference.query import Query, check_mode
from videoreasoner.inference.session import VideoSession
from videoreasoner.inference.stages import OnProgress, StageProgress, ignore
from videoreasoner.models.checkpoint import load_checkpoint
from videoreasoner.retrieval.encoder import TextImageEncoder, load_encoder
from videoreasoner.settings import Settings
from videoreasoner.video.isolated.file import DEFAULT_TIME_LIMIT_S, GuardedVideoFile
from videoreasoner.video.isolated.process import start_decoder
from videoreasoner.video.reader import VideoReader
from videoreasoner.video.video_range import VideoRange


class Reasoner:
    """Answers questions about videos and shows its evidence.

    Args:
        engine: a loaded model.
        encoder: finds the frames that show a key element; without one, focus uses the event only.
        video_time_limit_s: seconds that the decoder of a video may take for one call before it is stopped; see
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
        revision: str | None = None,
        local_files_only: bool = False,
        attn_implementation: str = "sdpa",
        **overrides: Any,
    ) -> Reasoner:
        """Load a shipped model, a folder or a Hugging Face id.

        Args:
            model: "tiny" ships with the package; any Qwen2-VL or Qwen2.5-VL checkpoint works as well.
            device, dtype, revision, local_files_only, attn_implementation: see `load_checkpoint`. An encoder that is a
                Hugging Face id follows `local_files_only`, too.
            constrain_event: decode the event under its grammar, so that it can always be read.
            video_time_limit_s: see `Reasoner`.
            overrides: any field of `Settings`; `encoder="none"` loads no text-image encoder.

        Raises:
            CheckpointError, SettingError, MissingExtraError
        """
        # The decoder's process starts while the model loads.
        start_decoder()
        checkpoint = load_checkpoint(
            model,
            device,
            dtype,
            revision=revision,
            local_files_only=local_files_only,
            attn_implementation=attn_implementation,
            **overrides,
        )
        engine = LocalEngine(checkpoint, constrain_event=constrain_event)
        wanted = checkpoint.settings.encoder
        if wanted is None or wanted == "none":
            return cls(engine, video_time_limit_s=video_time_limit_s)
        encoder = load_encoder(
            wanted,
            str(checkpoint.model.device),
            is_asked_for=overrides.get("encoder") is not None,
            local_files_only=local_files_only,
        )
        return cls(engine, encoder, video_time_limit_s=video_time_limit_s)

    @property
    def settings(self) -> Settings:
        return self.engine.settings

    def ask(
        self,
        video: str | Path | VideoReader,
        question: str,
        options: Sequence[str] = (),
        mode: str = "focus",
        *,
        start_s: float = 0.0,
        end_s: float | None = None,
        progress: OnProgress = ignore,
    ) -> Answer:
        """Answer one question about one video.

        Args:
            video: a path, a URL, or a video that is open already and stays open, such as a `FrameArray`.
            question: what to ask.
            options: 2 to 26 answers to choose from; none for an open question.
            mode: "focus", "direct" or "think".
            start_s, end_s: seconds. Only this part of the video is looked at; the times of the answer remain those of
                the whole video.
            progress: told at the beginning of each stage, and after each frame of the search.

        Raises:
            VideoError: the video cannot be used.
            QuestionError: the question or its options cannot be asked.
            SettingError: the mode is unknown, or there is nothing between start and end.
        """
        [answer] = self.ask_many(
            video, [Query.of(question, options)], mode, start_s=start_s, end_s=end_s, progress=progress
        )
        return answer

    def ask_many(
        self,
        video: str | Path | VideoReader,
        queries: Sequence[Query],
        mode: str = "focus",
        *,
        start_s: float = 0.0,
        end_s: float | None = None,
        progress: OnProgress = ignore,
    ) -> list[Answer]:
        """Answer several questions about one video; what they have in common is done once."""
        return list(self.iter_answers(video, queries, mode, start_s=start_s, end_s=end_s, progress=progress))

    def iter_answers(
        self,
        video: str | Path | VideoReader,
        queries: Sequence[Query],
        mode: str = "focus",
        *,
        start_s: float = 0.0,
        end_s: float | None = None,
        progress: OnProgress = ignore,
    ) -> Iterator[Answer]:
        """Like `ask_many`, one answer at a time."""
        checked = check_mode(mode)
        progress(StageProgress("open"))
        with ExitStack() as stack:
            if isinstance(video, (str, os.PathLike)):
                opened: VideoReader = stack.enter_context(GuardedVideoFile(video, self.video_time_limit_s))
            elif isinstance(video, (bytes, bytearray, memoryview, np.ndarray)):
                raise VideoError(
                    f"a video cannot be given as {type(video).__name__}; give a path, a URL, or "
                    "FrameArray(frames, fps=...) for frames in memory"
                )
            else:
                opened = video
            if start_s == 0.0 and end_s is None:
                session = VideoSession(self.engine, self.encoder, opened, progress)
                yield from (session.answer(query, checked) for query in queries)
                return
            part = VideoRange(opened, start_s, end_s)
            session = VideoSession(self.engine, self.encoder, part, progress)
            yield from (session.answer(query, checked).within(part.span, opened.duration_s) for query in queries)
