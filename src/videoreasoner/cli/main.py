"""The entry point: all commands, and how errors are shown.

Exit codes: 0 done, 1 a defect of this package, 2 bad input or usage (one line on stderr, no traceback).
"""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import Annotated

import typer
from typer.exceptions import TyperException

from videoreasoner.cli import ask, demo, doctor, evaluate, search, synthetic, train
from videoreasoner.errors import VideoReasonerError
from videoreasoner.version import __version__

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EIO)

app = typer.Typer(
    name="videoreasoner",
    help="Answer questions about videos: locate the event, look densely there, answer with evidence.",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("ask")(ask.ask)
app.command("search")(search.search)
app.command("demo")(demo.demo)
app.command("doctor")(doctor.doctor)
app.add_typer(synthetic.app, name="synthetic")
app.add_typer(train.app, name="train")
app.add_typer(evaluate.app, name="eval")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"videoreasoner {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def main(arguments: list[str] | None = None) -> None:
    """Run a command and exit with its code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    # A file name may hold bytes that are not UTF-8; showing it must not fail.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        # --debug is accepted anywhere, also after a command.
        plain = [a for a in arguments if a != "--debug"] or ["--help"]
        # Commands that run commands get this function as `context.obj`, so that imports point one way.
        code = app(plain, prog_name="videoreasoner", standalone_mode=False, obj=main)
    except (VideoReasonerError, TyperException) as error:
        if debug:
            raise
        text = error.format_message() if isinstance(error, TyperException) else str(error)
        print("error: " + " ".join(text.split()), file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        # A stream has no file name: this is a full disk behind `> answer.txt`.
        if debug or error.filename is not None or error.errno not in _FULL:
            raise
        print(f"error: the output cannot be written ({error.strerror}); send it somewhere else", file=sys.stderr)
        # Otherwise Python would try to write the rest of the buffer, and fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(2)
    except (typer.Abort, KeyboardInterrupt):
        print("stopped", file=sys.stderr)
        sys.exit(130)
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
