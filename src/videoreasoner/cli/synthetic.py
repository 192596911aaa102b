"""`videoreasoner synthetic`: films with exact truth, and the tiny checkpoints that are trained on them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from videoreasoner.cli.options import EventShareOption, EventsOption

app = typer.Typer(help=__doc__, rich_markup_mode=None)


@app.command()
def make(
    out_dir: Annotated[Path, typer.Argument(help="Folder for films/, plain.jsonl, detail.jsonl.")],
    films: Annotated[int, typer.Option(help="How many films.")] = 10,
    duration: Annotated[float, typer.Option(help="Length of a film, seconds.")] = 60.0,
    fps: Annotated[float, typer.Option(help="Frames a second.")] = 10.0,
    size: Annotated[int, typer.Option(help="Width and height, pixels.")] = 96,
    events: EventsOption = (1, 3),
    event_share: EventShareOption = (0.12, 0.35),
    gap_share: Annotated[float, typer.Option(help="Least share of film between events.")] = 0.03,
    detail: Annotated[str, typer.Option(help="What shows briefly: color or digit.")] = "color",
    detail_share: Annotated[float, typer.Option(help="How long it shows, share of film.")] = 0.01,
    distractors: Annotated[int, typer.Option(help="Grey shapes that drift about.")] = 1,
    questions: Annotated[int, typer.Option(help="Questions a film and split.")] = 1,
    subset: Annotated[str, typer.Option(help="Combinations: train or held_out.")] = "train",
    seed: Annotated[int, typer.Option(help="Names the sequence of films.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace another set.")] = False,
) -> None:
    """Make films as H.264 mp4 files, and rows that ask about them. Goes on where it stopped."""
    from rich.console import Console
    from rich.progress import Progress

    from videoreasoner.synthetic.film import FilmSettings, make_films
    from videoreasoner.synthetic.world import WorldSettings

    world = WorldSettings(events, event_share, gap_share, detail, detail_share, distractors)  # type: ignore[arg-type]
    settings = FilmSettings(duration, fps, size, seed, subset, world)  # type: ignore[arg-type]
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("making films", total=films)
        rows = make_films(
            out_dir,
            films,
            settings,
            questions_per_split=questions,
            overwrite=overwrite,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    typer.echo(f"{out_dir}: {films} films, {len(rows)} rows in plain.jsonl and detail.jsonl")


@app.command("train-tiny")
def train_tiny(
    out_dir: Annotated[Path, typer.Argument(help="Folder for tiny-base, tiny, tiny-encoder.")],
    threads: Annotated[int, typer.Option(help="Threads of torch.")] = 1,
) -> None:
    """Make the three shipped checkpoints from nothing, the way they were made. Goes on where it stopped."""
    import torch

    from videoreasoner.synthetic.tiny import make_checkpoints

    torch.set_num_threads(threads)
    make_checkpoints(out_dir, report=typer.echo)
    typer.echo(f"{out_dir}: tiny-base, tiny and tiny-encoder")
