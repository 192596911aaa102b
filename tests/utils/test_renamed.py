"""Arguments that a library renamed."""

from __future__ import annotations

from videoreasoner.utils.renamed import known_name


def test_the_new_name_is_taken_where_it_is_known() -> None:
    def before(past_key_values: object, use_cache: bool) -> None: ...

    def after(cache: object, use_cache: bool) -> None: ...

    def both(past_key_values: object, cache: object) -> None: ...

    found = [known_name(function, "cache", "past_key_values") for function in (before, after, both)]
    assert found == ["past_key_values", "cache", "cache"]
