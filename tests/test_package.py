from __future__ import annotations

import pytest

import videoreasoner


@pytest.mark.parametrize("name", videoreasoner.__all__)
def test_every_public_name_can_be_imported(name: str) -> None:
    assert getattr(videoreasoner, name).__name__ == name


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Film'"):
        _ = videoreasoner.Film
