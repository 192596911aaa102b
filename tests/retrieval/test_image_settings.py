from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers.image_processing_backends import PilBackend

from videoreasoner.errors import CheckpointError
from videoreasoner.models.checkpoint import SHIPPED
from videoreasoner.retrieval.image_settings import check_image_settings

FILE = "preprocessor_config.json"


@pytest.mark.parametrize(
    "changes", [{"size": {"height": 10**9, "width": 1}}, {"image_std": [0, 1, 1]}, {"do_resize": "x"}, {"resize": 1}]
)
def test_settings_without_sense_are_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    content = json.loads((SHIPPED / "tiny-encoder" / FILE).read_text())
    (tmp_path / FILE).write_text(json.dumps(content))
    check_image_settings(tmp_path, PilBackend)
    (tmp_path / FILE).write_text(json.dumps({**content, **changes}))
    with pytest.raises(CheckpointError, match=FILE):
        check_image_settings(tmp_path, PilBackend)
