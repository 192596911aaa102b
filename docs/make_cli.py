"""Writes docs/cli.md, the `--help` of every command: `python docs/make_cli.py`. A test compares the two."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main
from typer.testing import CliRunner

from videoreasoner.cli.main import app

PAGE = Path(__file__).with_name("cli.md")
WIDTH = 100

HEAD = """# Command line

This page holds the `--help` of every command. `python docs/make_cli.py` writes it.

Exit codes: 0 done, 1 a defect of VideoReasoner, 2 bad input or usage, 130 stopped with Ctrl-C. With 2, one line on
stderr names the input and says what to do. `--debug` shows the traceback as well.

These variables of the environment stand for flags that are not given:

| variable | flag |
|---|---|
| `VIDEOREASONER_MODEL` | `--model` |
| `VIDEOREASONER_DEVICE` | `--device` |
| `VIDEOREASONER_VIDEO_TIME_LIMIT` | `--video-time-limit` |

`VIDEOREASONER_MAX_PIXELS_PER_FRAME` is how many pixels a picture of a video may have (default 67108864,
which is 8192x8192).
"""


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path of each command, groups before their commands: (), ("ask",), ("train",), ("train", "grpo") ..."""
    yield path
    for name, child in getattr(command, "commands", {}).items():
        if not child.hidden:
            yield from commands(child, (*path, name))


def help_text(path: tuple[str, ...]) -> str:
    """What the command prints for `--help` on a terminal of `WIDTH` columns without colour."""
    environment = {"NO_COLOR": "1", "COLUMNS": str(WIDTH), "TERMINAL_WIDTH": str(WIDTH)}
    result = CliRunner().invoke(
        app,
        [*path, "--help"],
        prog_name="videoreasoner",
        terminal_width=WIDTH,
        max_content_width=WIDTH,
        env=environment,
    )
    if result.exit_code != 0:
        raise RuntimeError(f"videoreasoner {' '.join(path)} --help failed: {result.output}")
    return "\n".join(line.rstrip() for line in result.output.strip("\n").splitlines())


def page() -> str:
    """The text of docs/cli.md."""
    parts = [HEAD]
    for path in commands(typer.main.get_command(app)):
        parts.append(f"\n## {' '.join(('videoreasoner', *path))}\n\n```text\n{help_text(path)}\n```\n")
    return "".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE}", file=sys.stderr)
