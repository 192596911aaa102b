"""`videoreasoner train`: the cold start and GRPO, from recipes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(help="Train with recipes: the cold start, then GRPO.", rich_markup_mode=None)


@app.command(
    "cold-start",
    help="""Teach a base model the three formats. The same command resumes a run that was killed.

    On several devices: accelerate launch --config_file recipes/accelerate/zero3.yaml -m videoreasoner train cold-start
    RECIPE.yaml, or torchrun --nproc-per-node 8 -m videoreasoner train cold-start RECIPE.yaml.""",
)
@app.command(
    "grpo",
    help="""Reinforce locating and answering by rewards that can be checked. The same command resumes a killed run.

    On several devices: accelerate launch --config_file recipes/accelerate/zero2.yaml -m videoreasoner train grpo
    RECIPE.yaml, or torchrun --nproc-per-node 8 -m videoreasoner train grpo RECIPE.yaml.""",
)
def train(
    context: typer.Context,
    recipe: Annotated[Path, typer.Argument(help="A recipe, such as recipes/cold_start/tiny.yaml.")],
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", help="key=value that replaces what the recipe says; data.0.weight=2 too."),
    ] = None,
    video_root: Annotated[
        str | None, typer.Option(help="Folder of relative videos; short for --set video_root=.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Start from the beginning in a folder that holds another run.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what the run would need, without a GPU and without weights.")
    ] = False,
    devices: Annotated[int, typer.Option(help="For --dry-run: how many devices.")] = 1,
    strategy: Annotated[str, typer.Option(help="For --dry-run: ddp, zero2, zero3 or fsdp2.")] = "ddp",
    device_gb: Annotated[float, typer.Option(help="For --dry-run: memory of one device, in GB.")] = 80.0,
    rows_per_second: Annotated[
        float | None,
        typer.Option(help="For --dry-run: rows per second of all devices, to say how many hours it takes."),
    ] = None,
) -> None:
    from videoreasoner.training.recipe import load_recipe

    kind, train_recipe = _cold_start() if context.info_name == "cold-start" else _grpo()
    found = load_recipe(recipe, kind, changes or ())
    if video_root is not None:
        found = found.model_copy(update={"video_root": video_root})
    if dry_run:
        from videoreasoner.training.planning.dry_run import dry_run_report
        from videoreasoner.training.planning.memory import Hardware

        typer.echo(dry_run_report(found, Hardware(devices, strategy, device_gb, rows_per_second)))
        return
    _silence_transformers()
    folder = train_recipe(found, overwrite)
    # A launcher may have started several processes; only the first one prints.
    if os.environ.get("RANK", "0") == "0":
        typer.echo(f"{folder}: the trained model")


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
