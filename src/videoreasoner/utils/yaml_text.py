"""YAML of strangers: read, or refused with one kind of error."""

from __future__ import annotations

from typing import Any

import yaml

_OPENING = (
    yaml.FlowSequenceStartToken, yaml.FlowMappingStartToken, yaml.BlockSequenceStartToken, yaml.BlockMappingStartToken,
)  # fmt: skip
_CLOSING = (yaml.FlowSequenceEndToken, yaml.FlowMappingEndToken, yaml.BlockEndToken)
_DEEPEST = 50


def parse_yaml(text: str) -> Any:
    """The content of a YAML text without tags and aliases.

    A tag chooses how a value is read ("!!int x"), and an alias can make a small file endlessly large.

    Raises:
        ValueError: it is not YAML, holds a tag or an alias, is nested too deeply, or a value cannot be read, such as
            the date 2026-99-99.
    """
    depth = 0
    try:
        for token in yaml.scan(text, Loader=yaml.SafeLoader):
            if isinstance(token, (yaml.TagToken, yaml.AliasToken)):
                line = token.start_mark.line + 1
                raise ValueError(f"line {line}: tags (!name) and aliases (*name) are not read; write the value itself")
            depth += isinstance(token, _OPENING) - isinstance(token, _CLOSING)
            # PyYAML's time grows with the square of it, and Python's stack is short.
            if depth > _DEEPEST:
                raise ValueError("it is nested too deeply")
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
