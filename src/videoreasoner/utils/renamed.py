"""Arguments that a library renamed within the range of its versions that is supported."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any


def known_name(function: Callable[..., Any], new: str, old: str) -> str:
    """The new name of an argument where the installed version has it, and otherwise the old one.

    Args:
        function: a function or class of the library that takes the argument under one of both names.
    """
    return new if new in inspect.signature(function).parameters else old
