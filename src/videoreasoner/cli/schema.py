"""`videoreasoner schema`: the JSON schemas of rows and answers, made from their types."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import typer


def schema(
    of: Annotated[Literal["row", "answer"], typer.Argument(metavar="row|answer", help="What to describe.")],
) -> None:
    """Print the JSON schema of a row (what --batch and train read) or of an answer (what ask --json prints).

    Example: videoreasoner schema answer > answer.schema.json
    """
    typer.echo(json.dumps(json_schema(of), indent=2))


def json_schema(of: Literal["row", "answer"]) -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of a row as a file may give it, or of `Answer.to_dict()`.

    A schema cannot say all rules of a row: that the answer is one of the options, and that an event ends after it
    starts.
    """
    from pydantic import TypeAdapter

    from videoreasoner.inference.answer import Answer
    from videoreasoner.rows import Row

    if of == "row":
        found = Row.model_json_schema()
    else:
        found = TypeAdapter(Answer).json_schema(mode="serialization")
    # The rest of a docstring is for readers of the code.
    summary = found["description"].split("\n")[0]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **found, "description": summary}
