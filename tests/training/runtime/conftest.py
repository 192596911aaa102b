"""A model and rows that the tests of this folder train on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.toy import make_data, make_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("trainer")
    make_model(made / "model", event_tokens=False)
    make_data(made / "data")
    return made
