from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from videoreasoner.errors import CheckpointError
from videoreasoner.models.checkpoint import SHIPPED, read_config
from videoreasoner.models.folder.configuration import build_config
from videoreasoner.models.folder.tokenizer import load_tokenizer

CONFIG = build_config(read_config(SHIPPED / "tiny"), SHIPPED / "tiny" / "config.json")


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("tokenizer_config.json", {"padding_side": "up"}),
        ("tokenizer_config.json", {"eos_token": 3}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"x": {}}}),
        ("tokenizer.json", {"model": {}}),
        ("tokenizer.json", {"added_tokens": [{"content": "a", "unknown": 1}]}),
    ],
)
def test_a_damaged_file_is_named(name: str, changes: dict[str, Any], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(SHIPPED / "tiny", tmp_path / "tiny"))
    assert len(load_tokenizer(folder, CONFIG)) > 100
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(CheckpointError, match=str(path)):
        load_tokenizer(folder, CONFIG)
