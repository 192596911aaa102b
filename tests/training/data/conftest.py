"""Data and models that the tests of this folder share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.toy import FAMILIES, make_data, make_model
from videoreasoner.models.checkpoint import Checkpoint, load_checkpoint


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"), videos=3)


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return load_checkpoint(make_model(tmp_path_factory.mktemp("model") / "m", request.param), "cpu")
