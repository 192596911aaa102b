"""What pydantic found wrong, in words."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from videoreasoner.rows import Row
from videoreasoner.utils.validation import explain

ROW = {"id": "a", "video": "a.mp4", "question": "What?"}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({**ROW, "event": [5.0, 3.0]}, "event: [5.0, 3.0] ends before it starts; swap the two"),
        ({"id": "a", "video": "a.mp4"}, "question is missing"),
        ({"video": 3}, "id is missing; video: Input should be a valid string; question is missing"),
        # Not about one field.
        ({**ROW, "options": ["red", "blue"], "answer": "C"}, None),
    ],
)
def test_each_field_is_named_with_what_is_wrong(content: dict[str, Any], expected: str | None) -> None:
    with pytest.raises(ValidationError) as caught:
        Row.model_validate(content)
    text = explain(caught.value)
    assert expected is None or text == expected
    assert "Value error" not in text
    assert not text.startswith(":")
