"""`videoreasoner train`: the cold start and what follows it, from recipes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(help=__doc__, rich_markup_mode=None)

RecipeArgument = Annotated[Path, typer.Argument(help="A recipe, such as recipes/cold_start/tiny.yaml.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="key=value that replaces what the recipe says; data.0.weight=2 too.")
]
VideoRootOption = Annotated[str | None, typer.Option(help="Relative videos lie here; short for --set video_root=.")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Begin anew in a folder that holds another run.")]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Say what the run would need, without a GPU and without weights.")
]
DevicesOption = Annotated[int | None, typer.Option(help="For --dry-run: how many devices.")]
StrategyOption = Annotated[str, typer.Option(help="For --dry-run: ddp, zero2, zero3 or fsdp2.")]
MemoryOption = Annotated[float, typer.Option(help="For --dry-run: memory of one device, in GB.")]
RateOption = Annotated[
    float | None, typer.Option(help="For --dry-run: rows a second of all devices, to say how many hours it takes.")
]


@app.command("cold-start")
def cold_start(
    recipe: RecipeArgument,
    changes: SetOption = None,
    video_root: VideoRootOption = None,
    overwrite: OverwriteOption = False,
    dry_run: DryRunOption = False,
    devices: DevicesOption = None,
    strategy: StrategyOption = "ddp",
    device_gb: MemoryOption = 80.0,
    rows_per_second: RateOption = None,
) -> None:
    """Teach a base model the three formats. The same command goes on where a killed run stopped.

    On several devices: accelerate launch --config_file recipes/accelerate/zero3.yaml -m videoreasoner train cold-start
    RECIPE.yaml, or torchrun --nproc-per-node 8 -m videoreasoner train cold-start RECIPE.yaml.
    """
    from videoreasoner.training.recipe import ColdStartRecipe

    read = load(recipe, ColdStartRecipe, changes, video_root)
    if dry_run:
        from videoreasoner.training.planning.dry_run import Hardware, dry_run_report

        typer.echo(dry_run_report(read, Hardware(devices, strategy, device_gb, rows_per_second)))
        return
    quiet()
    from videoreasoner.training.cold_start import train_cold_start

    folder = train_cold_start(read, overwrite)
    # Of several processes that a launcher started, the first one speaks.
    if os.environ.get("RANK", "0") == "0":
        typer.echo(f"{folder}: the trained model")


@app.command("grpo")
def grpo(
    recipe: RecipeArgument,
    changes: SetOption = None,
    video_root: VideoRootOption = None,
    overwrite: OverwriteOption = False,
    dry_run: DryRunOption = False,
    devices: DevicesOption = None,
    strategy: StrategyOption = "ddp",
    device_gb: MemoryOption = 80.0,
    rows_per_second: RateOption = None,
) -> None:
    """Reinforce locating and answering by rewards that can be checked. The same command goes on after a kill.

    On several devices: accelerate launch --config_file recipes/accelerate/zero2.yaml -m videoreasoner train grpo
    RECIPE.yaml, or torchrun --nproc-per-node 8 -m videoreasoner train grpo RECIPE.yaml.
    """
    from videoreasoner.training.grpo.recipe import GrpoRecipe

    read = load(recipe, GrpoRecipe, changes, video_root)
    if dry_run:
        from videoreasoner.training.planning.dry_run import Hardware
        from videoreasoner.training.planning.grpo_dry_run import grpo_dry_run_report

        typer.echo(grpo_dry_run_report(read, Hardware(devices, strategy, device_gb, rows_per_second)))
        return
    quiet()
    from videoreasoner.training.grpo.setup import train_grpo

    folder = train_grpo(read, overwrite)
    if os.environ.get("RANK", "0") == "0":
        typer.echo(f"{folder}: the trained model")


def load(path: Path, kind: Any, changes: list[str] | None, video_root: str | None) -> Any:
    """A recipe with what the command line changes in it."""
    from videoreasoner.training.recipe import load_recipe

    found = load_recipe(path, kind, changes or ())
    return found if video_root is None else found.model_copy(update={"video_root": video_root})


def quiet() -> None:
    """Keep transformers' own bars and notes away: stderr is for our messages."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
