"""The errors that pydantic found, as one line of text, with the nearest name for one that does not exist."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError


def explain(error: ValidationError, model: type[BaseModel] | None = None, kind: str = "key") -> str:
    """What is wrong with each field, in one line.

    Args:
        model: what was validated; with it, an unknown name gets the nearest one that exists.
        kind: what a name is called, such as "setting".
    """
    return "; ".join(explain_one(problem, model, kind) for problem in error.errors(include_url=False))


def explain_one(problem: Mapping[str, Any], model: type[BaseModel] | None = None, kind: str = "key") -> str:
    """What is wrong with one field: an entry of `ValidationError.errors`."""
    field = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "missing":
        return f"{field} is missing"
    if problem["type"] == "extra_forbidden" and model is not None:
        known = _fields_at(model, problem["loc"][:-1])
        return f"there is no {kind} {field}; {did_you_mean(str(problem['loc'][-1]), known)}"
    message = str(problem["msg"]).removeprefix("Value error, ")
    return f"{field}: {message}" if field else message


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A question that names the nearest known name; there is at least one."""
    [nearest] = difflib.get_close_matches(name, list(known), n=1, cutoff=0.0)
    return f"did you mean {nearest}?"


def _fields_at(model: type[BaseModel], place: tuple[int | str, ...]) -> list[str]:
    for part in place:
        if isinstance(part, str) and part in model.model_fields:
            model = next(inner for inner in _models(model.model_fields[part].annotation))
    return list(model.model_fields)


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in get_args(annotation) for model in _models(inner)]
