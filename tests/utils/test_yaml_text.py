from __future__ import annotations

import pytest
import yaml

from tests.paths import ROOT
from videoreasoner.utils.yaml_text import parse_yaml


def test_what_yaml_reads_is_read() -> None:
    for path in (ROOT / "src").rglob("*.yaml"):
        text = path.read_text(encoding="utf-8")
        assert parse_yaml(text) == yaml.safe_load(text)


@pytest.mark.parametrize(
    "text", ["!!int x", "&a [*a]", "2026-99-99", "9" * 5000, "[" * 5000, "a: b: c", "\0", "[", "!!bool x"]
)
def test_anything_else_is_one_kind_of_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_yaml(text)
