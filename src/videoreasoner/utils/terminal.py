"""Text for a terminal: what is shown there cannot control it."""

from __future__ import annotations

import re
import sys

# C0 but for tab and newline, DEL and C1 (a terminal obeys them); line and paragraph separators; and the characters
# that reorder text ("Trojan Source", CVE-2021-42574).
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    r"""The text with each control character as an escape that can be seen, such as `\u001b`.

    JSON stays JSON of the same content, because these are JSON's own escapes. Newlines and tabs stay.
    """
    return _CONTROLS.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def one_line(text: str) -> str:
    """The text on one line, printable."""
    return " ".join(printable(text).split())


def say(text: str, *, to_stderr: bool = False, end: str = "\n") -> None:
    """Print a text, printable. All commands print with this, but for batches of records on stdout."""
    print(printable(text), end=end, file=sys.stderr if to_stderr else sys.stdout, flush=True)
