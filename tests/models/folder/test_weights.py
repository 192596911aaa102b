from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from videoreasoner.errors import CheckpointError
from videoreasoner.models.folder.weights import stored_values, weight_files


def test_values_are_counted_from_the_headers(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(3, 4), "b": torch.zeros(5)}, tmp_path / "model.safetensors")
    assert weight_files(tmp_path) == [tmp_path / "model.safetensors"]
    assert stored_values(weight_files(tmp_path)) == 17


@pytest.mark.parametrize("name", ["../outside.safetensors", "missing.safetensors", "pytorch_model.bin", 3])
def test_an_index_names_files_of_the_folder(name: str | int, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    save_file({"a": torch.zeros(1)}, tmp_path / "outside.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(CheckpointError, match="folder"):
        weight_files(folder)
