"""`videoreasoner reproduce`: the method at small scale, and whether its claims hold there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help=__doc__, rich_markup_mode=None)

# Their import takes longer than a small job does.
_IMPORTED = ("videoreasoner.training.grpo.setup", "videoreasoner.benchmarks.runner")
_RECIPE, _RESULTS = Path("experiments/recipes/reproduce.yaml"), Path("docs/reproduction")


@app.callback(invoke_without_command=True)
def reproduce(
    context: typer.Context,
    recipe: Annotated[Path, typer.Option("--recipe", help="What is run, and what has to come out of it.")] = _RECIPE,
    seeds: Annotated[int | None, typer.Option("--seeds", help="The first N of its seeds; by default all.")] = None,
    jobs: Annotated[int, typer.Option("--jobs", help="Processes at once, of one thread each.")] = 2,
    changes: Annotated[
        list[str] | None, typer.Option("--set", help="key=value that replaces what the recipe says.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Do again what another recipe left.")] = False,
) -> None:
    """Train and evaluate every arm of a recipe, and write its page. Called again, it does only what is missing.

    Exit code 1 when something could not be run; a claim that does not hold is a result.
    """
    if context.invoked_subcommand is not None:
        return
    from experiments.reproduction.jobs import Ledger, run_jobs
    from experiments.reproduction.page import write_page
    from experiments.reproduction.plan import Plan
    from experiments.reproduction.plots import need_matplotlib
    from experiments.reproduction.recipe import load_reproduction
    from experiments.reproduction.results import collect
    from videoreasoner.errors import SettingError

    if jobs < 1:
        raise SettingError(f"--jobs must be 1 or more, not {jobs}")
    # Found out now, and not after hours.
    need_matplotlib()
    read = load_reproduction(recipe, changes, seeds)
    plan, ledger = Plan(read), Ledger(Path(read.out_dir))
    with ledger.held():
        ledger.clear(plan.jobs.values(), overwrite)
        failed = run_jobs(plan.jobs.values(), ledger, jobs, context.obj, typer.echo, _IMPORTED)
        if failed:
            names = ", ".join(failed)
            typer.echo(f"could not be run: {names}; no page was written. The same command tries again", err=True)
            raise typer.Exit(1)
        folder = Path(read.results_dir)
        collect(plan, ledger, folder)
        typer.echo(write_page(folder))


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="Of the result files.")] = _RESULTS,
) -> None:
    """Write the page and the plots again, from the result files alone."""
    from experiments.reproduction.page import write_page

    typer.echo(write_page(folder))
