"""What is measured: anything that can be loaded as a `Reasoner`, such as a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import transformers

from videoreasoner.errors import SettingError
from videoreasoner.inference.reasoner import Reasoner
from videoreasoner.models.checkpoint import find_folder
from videoreasoner.settings import Settings
from videoreasoner.utils.hashing import hash_checkpoint


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

    The event is written freely, not under its grammar: parsing is part of what is measured.

    Attributes:
        model: a shipped model, a folder or a Hugging Face id.
        device: a torch device, or "auto".
        threads: of torch, in the process that loads it. Fixed, because another number may give other last bits.
        settings: fields of `Settings` that replace the checkpoint's own; None leaves them.
    """

    model: str = "tiny"
    device: str = "auto"
    threads: int = 1
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.threads < 1:
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
        return {
            "model": self.model,
            "model_hash": hash_checkpoint(folder),
            "encoder_hash": None if is_named or encoder is None else hash_checkpoint(find_folder(encoder)),
            "settings": settings.for_inference(),
        }

    def load(self) -> Reasoner:
        """See `Reasoner.from_pretrained`; sets the number of torch's threads."""
        torch.set_num_threads(self.threads)
        # Also in worker processes: stderr is for our messages.
        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        return Reasoner.from_pretrained(self.model, device=self.device, constrain_event=False, **self.settings)
