"""Run a recipe: make videos, train and evaluate every variant, and write the page.

The work is a list of `videoreasoner` commands, each of which resumes by itself.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.reproduction.commands import list_commands
from experiments.reproduction.jobs import remove_stale, run_commands
from experiments.reproduction.page import write_page
from experiments.reproduction.plots import need_matplotlib
from experiments.reproduction.recipe import Reproduction, load_reproduction
from experiments.reproduction.results import collect
from videoreasoner.cli.main import main as videoreasoner
from videoreasoner.errors import SettingError, VideoReasonerError
from videoreasoner.utils.files import locked
from videoreasoner.utils.terminal import one_line


def reproduce(recipe: Reproduction, jobs: int, overwrite: bool) -> None:
    """Run all commands of a recipe, collect the result files, and write the page.

    Raises:
        VideoReasonerError: the recipe or the folder cannot be used. SystemExit: a command failed.
    """

    def busy(holder: str) -> SettingError:
        return SettingError(f"{out}: another call is using this folder ({holder}); wait until it has ended")

    need_matplotlib()
    commands, out, results = list_commands(recipe), Path(recipe.out_dir), Path(recipe.results_dir)
    try:
        out.mkdir(parents=True, exist_ok=True)
        with locked(out / ".lock", busy):
            remove_stale(commands, overwrite)
            failed = run_commands(commands, jobs, videoreasoner, functools.partial(print, flush=True))
            if not failed:
                collect(recipe, commands, results)
    except OSError as error:
        reason = f"cannot be used ({error.strerror or error})"
        raise SettingError(f"{out}: {reason}; give another folder: --set out_dir=FOLDER") from error
    if failed:
        sys.exit(
            f"failed, or needs what failed: {', '.join(failed)}. No page was written. The same command tries again"
        )
    print(write_page(results))


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line. Exit codes: 0 done, 1 a command failed, 2 bad input. A claim that fails is a result."""
    parser = argparse.ArgumentParser("python -m experiments.reproduction", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--recipe", type=Path, default=Path("experiments/recipes/reproduce.yaml"))
    parser.add_argument("--seeds", type=int, help="use the first N seeds of the recipe; the default is all")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time, of one thread each")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="replace a value of the recipe")
    parser.add_argument("--overwrite", action="store_true", help="replace work of another recipe in the same folder")
    parser.add_argument(
        "--page-only", action="store_true", help="write page and plots from the result files, run nothing"
    )
    options = parser.parse_args(arguments)
    try:
        if options.jobs < 1:
            raise SettingError(f"--jobs must be 1 or more, not {options.jobs}")
        recipe = load_reproduction(options.recipe, options.set, options.seeds)
        if options.page_only:
            print(write_page(Path(recipe.results_dir)))
        else:
            reproduce(recipe, options.jobs, options.overwrite)
    except VideoReasonerError as error:
        print(f"error: {one_line(str(error))}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit("stopped; the same command continues")
