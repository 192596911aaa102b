"""`videoreasoner demo`: makes a video and asks the shipped model about it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from videoreasoner.cli.options import ModelOption, load_reasoner
from videoreasoner.utils.terminal import say

# Pixels. The model sees 32x32, but people like to see more.
_SIZE = 240


def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder for the video and the answers.")] = Path(
        "videoreasoner-demo"
    ),
    seed: Annotated[int, typer.Option(help="Seed of the video.")] = 13,
    model: ModelOption = "tiny",
) -> None:
    """Make a video, ask about something that shows for half a second, and write the evidence as pages."""
    from videoreasoner.cli.text import describe, print_warnings
    from videoreasoner.inference.query import Query
    from videoreasoner.inference.report.answer_page import write_report
    from videoreasoner.synthetic.videos import VideoSettings, make_videos
    from videoreasoner.video.isolated.file import GuardedVideoFile

    # A folder for each seed, so that nothing has to be replaced.
    folder = out / f"seed-{seed}"
    say(f"Making a video of one minute in {folder} ...")
    [plain, detail] = make_videos(folder, 1, VideoSettings(seed=seed, subset="held_out", size=_SIZE))
    video = detail.video_path(folder)
    say(f"Loading the model {model} ...\n")
    reasoner = load_reasoner(model)
    pages = []
    with GuardedVideoFile(video) as opened:
        for row in (plain, detail):
            query = Query(row.question, tuple(row.options or ()))
            answers = {mode: reasoner.ask_many(opened, [query], mode)[0] for mode in ("direct", "focus")}
            truth = (row.options or [])["ABCD".index(row.answer or "A")]
            say(f"Question      {row.question}   (true: {truth})")
            say(f"Evenly spread {answers['direct'].text}   (mode direct, {answers['direct'].timing['total']:.2f} s)")
            say(describe(answers["focus"]) + "\n")
            print_warnings(answers["focus"])
            name = str(row.id).split("-")[-2]
            record = {mode: answer.to_dict() for mode, answer in answers.items()}
            (folder / f"answer-{name}.json").write_text(json.dumps(record, indent=2) + "\n")
            page = folder / f"answer-{name}.html"
            write_report(answers["focus"], page, row, video=opened)
            pages.append(page)
    say(f"Video     {video}\nAnswers  {folder}/answer-plain.json, {folder}/answer-detail.json")
    say("\n".join(f"Page     {page}" for page in pages))
