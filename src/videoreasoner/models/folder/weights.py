"""The weights of a folder: which files are read, and whether they hold as much as its configuration describes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from videoreasoner.errors import CheckpointError
from videoreasoner.models.folder.configuration import read_checkpoint_json

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
_MOST_INDEX_BYTES = 2**26
_PICKLED = (
    "no .safetensors weights; pickled weights are refused, because loading them runs code. "
    "Convert them with save_pretrained(..., safe_serialization=True) where you trust them"
)


def weight_files(folder: Path) -> list[Path]:
    """The files that transformers reads the weights from.

    Raises:
        CheckpointError: there are none, one is missing or lies outside the folder, or one would be unpickled.
    """
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    path = folder / INDEX
    if not path.is_file():
        raise CheckpointError(f"{folder}: {_PICKLED}")
    names = read_checkpoint_json(path, _MOST_INDEX_BYTES).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise CheckpointError(f"{path}: not an index of weights; copy the file again")
    files = sorted(set(names.values()))
    if not files or not all(name.endswith(".safetensors") for name in files):
        raise CheckpointError(f"{folder}: {_PICKLED}")
    for name in files:
        if Path(name).name != name or not (folder / name).is_file():
            raise CheckpointError(f"{path}: names {name!r}, which is no file of the folder; copy all weights")
    return [folder / name for name in files]


def stored_values(files: list[Path]) -> int:
    """How many numbers the files hold. Only their headers are read.

    Raises:
        CheckpointError: one is damaged.
    """
    total = 0
    for path in files:
        try:
            with safe_open(path, framework="pt") as file:
                total += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{path}: cannot be loaded ({str(error)[:300]}); copy the file again") from error
    return total


def meta_model(model: Any, config: Any) -> Any:
    """The network of a configuration, on torch's meta device, where tensors have shapes and no content.

    Args:
        model: transformers' class of the model.
        config: its configuration.
    """
    with torch.device("meta"):
        return model._from_config(config)


def check_size(folder: Path, files: list[Path], model: Any, config: Any) -> None:
    """Refuse a configuration that describes a larger model than the folder holds, before memory is taken for it.

    Raises:
        CheckpointError: it does, or a file of weights is damaged.
    """
    described = sum(parameter.numel() for parameter in meta_model(model, config).parameters())
    stored = stored_values(files)
    if described > stored:
        raise CheckpointError(
            f"{folder}: cannot be loaded: config.json describes {described:,} weights, and the .safetensors files hold "
            f"{stored:,}; copy all files of one model"
        )
