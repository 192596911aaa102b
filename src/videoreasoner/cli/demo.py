"""`videoreasoner demo`: a film that is made here and now, asked about by the model that ships."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from videoreasoner.cli.options import ModelOption, load_reasoner

# The model sees 32x32 pixels; people like to see more.
_SIZE = 240


def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder for the film and the answers.")] = Path(
        "videoreasoner-demo"
    ),
    seed: Annotated[int, typer.Option(help="Another seed makes another film.")] = 13,
    model: ModelOption = "tiny",
) -> None:
    """Make a film, ask about something that shows for half a second, and write the evidence as pages."""
    from videoreasoner.cli.text import describe
    from videoreasoner.reasoner import Query
    from videoreasoner.report.page import write_report
    from videoreasoner.synthetic.film import FilmSettings, make_films

    # A folder for each seed, so that nothing that is in the folder already has to make room.
    folder = out / f"seed-{seed}"
    typer.echo(f"Making a film of one minute in {folder} ...")
    [plain, detail] = make_films(folder, 1, FilmSettings(seed=seed, subset="held_out", size=_SIZE))
    film = detail.video_path(folder)
    typer.echo(f"Loading the model {model} ...\n")
    reasoner = load_reasoner(model, "auto", None, free_event=False)
    pages = []
    for row in (plain, detail):
        query = Query(row.question, tuple(row.options or ()))
        answers = {mode: reasoner.ask_many(film, [query], mode)[0] for mode in ("direct", "focus")}
        truth = (row.options or [])["ABCD".index(row.answer or "A")]
        typer.echo(f"Question      {row.question}   (true: {truth})")
        typer.echo(f"Evenly spread {answers['direct'].text}   (mode direct, {answers['direct'].timing['total']:.2f} s)")
        typer.echo(describe(answers["focus"]) + "\n")
        name = str(row.id).split("-")[-2]
        record = {mode: answer.to_dict() for mode, answer in answers.items()}
        (folder / f"answer-{name}.json").write_text(json.dumps(record, indent=2) + "\n")
        page = folder / f"answer-{name}.html"
        write_report(answers["focus"], page, row)
        pages.append(page)
    typer.echo(f"Film     {film}\nAnswers  {folder}/answer-plain.json, {folder}/answer-detail.json")
    typer.echo("\n".join(f"Page     {page}" for page in pages))
