"""The entry point: all commands, and how errors are shown.

Exit codes: 0 done, 1 a defect of this package, 2 bad input or usage (one line on stderr, no traceback), 130 stopped by
the user (one line that says how to go on).
"""

from __future__ import annotations

import errno
import io
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Annotated, Any, NoReturn

import typer
import typer.main
from typer.core import TyperGroup
from typer.exceptions import TyperException

from videoreasoner.cli import ask, demo, doctor, evaluate, schema, search, synthetic, train
from videoreasoner.errors import Stopped, VideoReasonerError
from videoreasoner.utils.terminal import one_line, say
from videoreasoner.version import __version__

_STOPPED = 130
_WAIT_S = 15.0
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EIO)

_log = logging.getLogger("videoreasoner")


def _level_setter(level: int) -> Callable[[bool], None]:
    def set_level(given: bool) -> None:
        if given:
            _log.setLevel(level)

    return set_level


def _flags(
    verbose: Annotated[
        bool,
        typer.Option("-v", "--verbose", callback=_level_setter(logging.DEBUG), help="Show more messages on stderr."),
    ] = False,
    quiet: Annotated[
        bool,
        typer.Option(
            "-q",
            "--quiet",
            callback=_level_setter(logging.ERROR),
            help="Show errors only: no progress and no warnings.",
        ),
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """The flags of every command. Never called: they work by their callbacks, and `main` looks for `--debug`."""


class _Commands(TyperGroup):
    """A group that gives the flags of `_flags` to itself and to all commands below it."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        flags = typer.Typer(add_completion=False)
        flags.command()(_flags)
        common = [option for option in typer.main.get_command(flags).params if option.name != "help"]
        for option in common:
            option.expose_value = False
        for command in _all_commands(self):
            command.params += common


def _all_commands(command: Any) -> Iterator[Any]:
    yield command
    for child in getattr(command, "commands", {}).values():
        yield from _all_commands(child)


class _Line(logging.Formatter):
    """A record as one line, such as `warning: it is late`."""

    def format(self, record: logging.LogRecord) -> str:
        text = one_line(record.getMessage())
        return text if record.levelno == logging.INFO else f"{record.levelname.lower()}: {text}"


def _log_to_stderr() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(_Line())
    # Once in a process, and to the stderr of now: `main` may be called again.
    _log.handlers = [handler]
    _log.setLevel(logging.INFO)


app = typer.Typer(
    name="videoreasoner",
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Answer questions about videos: locate the event, look densely there, answer with evidence.",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("ask")(ask.ask)
app.command("search")(search.search)
app.command("demo")(demo.demo)
app.command("doctor")(doctor.doctor)
app.command("schema")(schema.schema)
app.add_typer(synthetic.app, name="synthetic")
app.add_typer(train.app, name="train")
app.add_typer(evaluate.app, name="eval")


def _print_version(wanted: bool) -> None:
    if wanted:
        say(f"videoreasoner {__version__}")
        raise typer.Exit


@app.callback()
def _root(
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
    _log_to_stderr()
    try:
        plain = arguments if set(arguments) - {"--debug", "-v", "--verbose", "-q", "--quiet"} else ["--help"]
        # Commands that run commands get this function as `context.obj`, so that imports point one way.
        code = app(plain, prog_name="videoreasoner", standalone_mode=False, obj=main)
    except Stopped as stop:
        _end_stopped(str(stop))
    except (VideoReasonerError, TyperException) as error:
        if debug:
            raise
        _wait_for_first_process()
        text = error.format_message() if isinstance(error, TyperException) else str(error)
        print(f"error: {one_line(text)}", file=sys.stderr)
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
        _end_stopped()
    # typer turns an interrupt from the keyboard into this code.
    if code == _STOPPED:
        _end_stopped()
    sys.exit(code if isinstance(code, int) else 0)


def _wait_for_first_process() -> None:
    """Give the first process of a launch on this machine the time to say an error that all of them meet.

    The launcher then ends the others while they wait. An error of one process alone is said after the wait.
    """
    if os.environ.get("LOCAL_RANK", "0") != "0":
        time.sleep(_WAIT_S)


def _end_stopped(text: str = "stopped") -> NoReturn:
    # A launcher may have started several processes; only the first one says it.
    if os.environ.get("RANK", "0") == "0":
        print(one_line(text), file=sys.stderr)
    sys.exit(_STOPPED)


if __name__ == "__main__":
    main()
