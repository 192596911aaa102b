"""The errors that pydantic found, as one line of text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError


def explain(error: ValidationError) -> str:
    """What is wrong with each field, in one line."""
    return "; ".join(explain_one(problem) for problem in error.errors(include_url=False))


def explain_one(problem: Mapping[str, Any]) -> str:
    """What is wrong with one field: an entry of `ValidationError.errors`."""
    field = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "missing":
        return f"{field} is missing"
    message = str(problem["msg"]).removeprefix("Value error, ")
    return f"{field}: {message}" if field else message
