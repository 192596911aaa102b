"""Hashes that say whether two runs had the same data or the same model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from videoreasoner.errors import CheckpointError, EvaluationError, VideoReasonerError
from videoreasoner.rows import Row

# Hexadecimal digits that are kept: enough to tell any two apart, few enough to read.
_DIGITS = 16
# The files that decide a checkpoint's answers. Logs and optimizer states do not.
_CHECKPOINT_FILES = (
    "*.safetensors", "config.json", "generation_config.json", "videoreasoner.json", "tokenizer*.json", "vocab.json",
    "merges.txt", "special_tokens_map.json", "added_tokens.json", "*processor_config.json",
)  # fmt: skip


def hash_data(content: Any) -> str:
    """Hash of plain data; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:_DIGITS]


def hash_rows(rows: Sequence[Row], video_root: Path) -> str:
    """Hash of rows in any order, and of every byte of their videos.

    Raises:
        EvaluationError: a video is not there.
    """
    lines = sorted(row.to_json_line() for row in rows)
    videos = sorted({row.video for row in rows})
    return hash_data([lines, [[video, _hash_file(video_root / video, EvaluationError)] for video in videos]])


def hash_checkpoint(folder: Path) -> str:
    """Hash of the files that decide what a checkpoint or a text-image encoder gives; the place does not matter.

    Raises:
        CheckpointError: a file of it cannot be read.
    """
    paths: Iterable[Path] = {path for pattern in _CHECKPOINT_FILES for path in folder.glob(pattern)}
    return hash_data([[path.name, _hash_file(path, CheckpointError)] for path in sorted(paths)])


def _hash_file(path: Path, kind: type[VideoReasonerError]) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise kind(f"{path}: cannot be read ({error.strerror or error}); check the path") from error
