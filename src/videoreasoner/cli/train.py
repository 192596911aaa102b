"""`videoreasoner train`: the cold start and GRPO, from recipes."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer

from videoreasoner.utils.terminal import say

app = typer.Typer(help="Train with recipes: the cold start, then GRPO.", rich_markup_mode=None)


def _print_list(wanted: bool) -> None:
    if wanted:
        from videoreasoner.training.catalog import PROFILES, shipped

        for item in shipped():
            needs = "" if item.kind == PROFILES else f"{item.value('model_name_or_path')}; {item.hardware}. "
            say(f"{item.name:32} {needs}{item.about}.")
        raise typer.Exit


def _print_file(name: str | None) -> None:
    if name is not None:
        from videoreasoner.training.catalog import find

        say(find(name).path.read_text(encoding="utf-8"), end="")
        raise typer.Exit


def _print_path(name: str | None) -> None:
    if name is not None:
        from videoreasoner.training.catalog import find

        say(str(find(name).path))
        raise typer.Exit


# Without it, typer would ask for a command before it reads these options.
@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    listed: Annotated[
        bool,
        typer.Option(
            "--list", callback=_print_list, is_eager=True, help="List the shipped recipes and launch profiles."
        ),
    ] = False,
    show: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            callback=_print_file,
            is_eager=True,
            help="Print a shipped file, to change it: --show grpo/qwen2-vl-7b > mine.yaml.",
        ),
    ] = None,
    path: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            callback=_print_path,
            is_eager=True,
            help='Print the path of a shipped file: accelerate launch --config_file "$(... --path accelerate/zero2)".',
        ),
    ] = None,
) -> None:
    if context.invoked_subcommand is None:
        raise typer.BadParameter("give cold-start or grpo and a recipe; `videoreasoner train --list` shows them")


@app.command(
    "cold-start",
    help="""Teach a base model the three task formats. The same command resumes a run that was killed.

    Example: videoreasoner train cold-start tiny

    On several devices: accelerate launch --config_file "$(videoreasoner train --path accelerate/zero3)"
    -m videoreasoner train cold-start RECIPE, or torchrun --nproc-per-node 8 -m videoreasoner train
    cold-start RECIPE.""",
)
@app.command(
    "grpo",
    help="""Train locating and answering with GRPO. The same command resumes a run that was killed.

    Example: videoreasoner train grpo tiny

    On several devices: accelerate launch --config_file "$(videoreasoner train --path accelerate/zero2)"
    -m videoreasoner train grpo RECIPE, or torchrun --nproc-per-node 8 -m videoreasoner train grpo RECIPE.""",
)
def train(
    context: typer.Context,
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE",
            help="A YAML file, or the name of a shipped recipe, such as tiny (videoreasoner train --list).",
        ),
    ],
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", help="KEY=VALUE that replaces a value of the recipe, such as data.0.weight=2; repeat."),
    ] = None,
    video_root: Annotated[
        str | None, typer.Option(help="Folder of relative videos; short for --set video_root=.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Remove another run from the folder and start from the beginning.")
    ] = False,
    show: Annotated[bool, typer.Option("--show", help="Print the recipe and exit.")] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Print what the run needs, without a GPU or weights; exit with code 2 if it cannot run.",
        ),
    ] = False,
    devices: Annotated[int, typer.Option(help="For --dry-run: number of devices.")] = 1,
    strategy: Annotated[str, typer.Option(help="For --dry-run: ddp, zero2, zero3 or fsdp2.")] = "ddp",
    device_gb: Annotated[float, typer.Option(help="For --dry-run: memory of one device, in GB.")] = 80.0,
    rows_per_second: Annotated[
        float | None,
        typer.Option(help="For --dry-run: rows per second of all devices together, to estimate the hours."),
    ] = None,
) -> None:
    from videoreasoner.errors import SettingError
    from videoreasoner.training.catalog import recipe_file
    from videoreasoner.training.recipe import load_recipe

    file = recipe_file(recipe, str(context.info_name))
    if show:
        say(file.read_text(encoding="utf-8"), end="")
        return
    kind, train_recipe = _cold_start() if context.info_name == "cold-start" else _grpo()
    found = load_recipe(file, kind, changes or ())
    if video_root is not None:
        found = found.model_copy(update={"video_root": video_root})
    if dry_run:
        from videoreasoner.training.planning.dry_run import dry_run as plan
        from videoreasoner.training.planning.memory import Hardware

        report = plan(found, Hardware(devices, strategy, device_gb, rows_per_second))
        say(report.text)
        if report.problems:
            raise SettingError(f"{recipe}: cannot run in this way: {report.problems[0]}")
        return
    _silence_transformers()
    folder = train_recipe(found, overwrite)
    # A launcher may have started several processes; only the first one prints.
    if os.environ.get("RANK", "0") == "0":
        say(f"{folder}: the trained model")


def _cold_start() -> tuple[Any, Any]:
    from videoreasoner.training.cold_start import train_cold_start
    from videoreasoner.training.recipe import ColdStartRecipe

    return ColdStartRecipe, train_cold_start


def _grpo() -> tuple[Any, Any]:
    from videoreasoner.training.grpo.recipe import GrpoRecipe
    from videoreasoner.training.grpo.setup import train_grpo

    return GrpoRecipe, train_grpo


def _silence_transformers() -> None:
    """Keep transformers' own bars and notes away: stderr is for our messages."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
