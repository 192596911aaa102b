"""`videoreasoner synthetic`: make videos with exact ground truth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from videoreasoner.cli.options import EventShareOption, EventsOption, naming_flags, resumable
from videoreasoner.utils.terminal import say

app = typer.Typer(help="Make synthetic videos with exact ground truth.", rich_markup_mode=None)


@app.command()
def make(
    out_dir: Annotated[Path, typer.Argument(help="Folder for videos/, plain.jsonl and detail.jsonl.")],
    videos: Annotated[int, typer.Option(help="Number of videos.")] = 10,
    duration: Annotated[float, typer.Option(help="Length of a video, in seconds.")] = 60.0,
    fps: Annotated[float, typer.Option(help="Frames per second.")] = 10.0,
    size: Annotated[int, typer.Option(help="Width and height of the videos, in pixels.")] = 96,
    events: EventsOption = (1, 3),
    event_share: EventShareOption = (0.12, 0.35),
    gap_share: Annotated[float, typer.Option(help="Shortest gap between events, as a share of the video.")] = 0.03,
    detail: Annotated[
        Literal["color", "digit"], typer.Option(help="Kind of the brief detail: another color, or a digit.")
    ] = "color",
    detail_share: Annotated[float, typer.Option(help="Duration of the detail, as a share of the video.")] = 0.01,
    distractors: Annotated[int, typer.Option(help="Number of grey shapes that move across each video.")] = 1,
    questions: Annotated[int, typer.Option(help="Questions about each video, in each split.")] = 1,
    subset: Annotated[
        Literal["train", "held_out"], typer.Option(help="Pairs of color and shape that occur.")
    ] = "train",
    seed: Annotated[int, typer.Option(help="Seed of the videos.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace other videos in the folder.")] = False,
) -> None:
    """Make videos as H.264 mp4 files, and rows that ask about them.

    The same command continues a killed run.
    """
    from videoreasoner.synthetic.videos import VideoSettings, make_videos
    from videoreasoner.synthetic.world import WorldSettings

    names = ("videos", "fps", "size", "seed", "subset", "events", "event_share", "gap_share", "detail", "detail_share")
    flags = {name: "--" + name.replace("_", "-") for name in (*names, "distractors")}
    with (
        naming_flags(**flags, duration_s="--duration", questions_per_split="--questions"),
        resumable("making videos", "videos") as progress,
    ):
        world = WorldSettings(events, event_share, gap_share, detail, detail_share, distractors)
        settings = VideoSettings(duration, fps, size, seed, subset, world)
        rows = make_videos(
            out_dir, videos, settings, questions_per_split=questions, overwrite=overwrite, progress=progress
        )
    say(f"{out_dir}: {videos} videos, {len(rows)} rows in plain.jsonl and detail.jsonl")
