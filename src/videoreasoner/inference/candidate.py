"""A model that is named and not yet loaded, such as a checkpoint: what a benchmark measures and a worker loads."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import transformers

from videoreasoner.errors import SettingError
from videoreasoner.inference.reasoner import Reasoner
from videoreasoner.models.checkpoint import find_folder
from videoreasoner.retrieval.encoder import check_consent
from videoreasoner.settings import Settings
from videoreasoner.utils.hashing import hash_checkpoint
from videoreasoner.video.isolated.file import DEFAULT_TIME_LIMIT_S


class Candidate(Protocol):
    """What is measured. It can be pickled, because each worker process loads it for itself."""

    def identity(self) -> dict[str, Any]:
        """Plain data that changes whenever answers may; at least `model_hash` and `settings`.

        Known before anything is loaded.
        """
        ...

    def load(self) -> Reasoner: ...


@dataclass(frozen=True)
class LocalCandidate:
    """A checkpoint that runs on this machine.

    Attributes:
        model: a shipped model, a folder or a Hugging Face id.
        device: a torch device, or "auto".
        threads: of torch, in the process that loads it. Fixed, because another number may give other last bits; None
            leaves torch's own.
        settings: fields of `Settings` that replace the checkpoint's own; None leaves them.
        constrain_event: decode the event under its grammar. A benchmark does not, because parsing is part of what is
            measured.
        video_time_limit_s: see `Reasoner`.
    """

    model: str = "tiny"
    device: str = "auto"
    threads: int | None = 1
    settings: dict[str, Any] = field(default_factory=dict)
    constrain_event: bool = False
    video_time_limit_s: float = DEFAULT_TIME_LIMIT_S

    def __post_init__(self) -> None:
        if self.threads is not None and self.threads < 1:
            raise SettingError(f"--threads must be 1 or more, not {self.threads}")

    def identity(self) -> dict[str, Any]:
        """See `Candidate.identity`.

        Raises:
            CheckpointError, SettingError: as for `load`.
        """
        folder = find_folder(self.model)
        settings = Settings.load(folder).changed(**self.settings)
        encoder = settings.encoder
        is_named = encoder is None or encoder == "none" or encoder.startswith("open_clip:")
        # To hash an encoder is to fetch it.
        if encoder is not None and not is_named and self.settings.get("encoder") is None:
            check_consent(encoder)
        return {
            "model": self.model,
            "model_hash": hash_checkpoint(folder),
            "encoder_hash": None if is_named or encoder is None else hash_checkpoint(find_folder(encoder)),
            "settings": settings.for_inference(),
        }

    def answers_as(self) -> dict[str, Any]:
        """What the records of its answers hold under `engine` and `settings`, known before anything is loaded.

        Raises:
            CheckpointError, SettingError: as for `load`.
        """
        identity = self.identity()
        engine = {key: identity[key] for key in ("model", "model_hash")}
        return {"engine": {**engine, "constrain_event": self.constrain_event}, "settings": identity["settings"]}

    def load(self) -> Reasoner:
        """See `Reasoner.from_pretrained`; sets the number of torch's threads."""
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        # Also in worker processes: stderr is for our messages.
        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        return Reasoner.from_pretrained(
            self.model,
            device=self.device,
            constrain_event=self.constrain_event,
            video_time_limit_s=self.video_time_limit_s,
            **self.settings,
        )
