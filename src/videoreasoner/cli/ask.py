"""`videoreasoner ask`: one question about one video, or a file of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from videoreasoner.cli.options import (
    DenseRateOption,
    DenseShareOption,
    DeviceOption,
    EncoderOption,
    FrameBudgetOption,
    FreeEventOption,
    KeyframeWidthOption,
    ModelOption,
    ModeOption,
    SparseRateOption,
    load_reasoner,
)
from videoreasoner.errors import QuestionError, RowError, SettingError


def ask(
    video: Annotated[str | None, typer.Argument(help="A video file or URL.")] = None,
    question: Annotated[str | None, typer.Argument(help="What you want to know.")] = None,
    option: Annotated[
        list[str] | None, typer.Option("--option", "-o", help="An answer to choose from; repeat.")
    ] = None,
    model: ModelOption = "tiny",
    mode: ModeOption = "focus",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    batch: Annotated[Path | None, typer.Option("--batch", help="Rows to answer, JSON lines; needs --out.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Answers, JSON lines; a killed run goes on there.")] = None,
    video_root: Annotated[
        Path | None, typer.Option("--video-root", help="Folder of the videos named in the rows.")
    ] = None,
    encoder: EncoderOption = None,
    frame_budget: FrameBudgetOption = None,
    sparse_rate_fps: SparseRateOption = None,
    dense_share: DenseShareOption = None,
    dense_rate_fps: DenseRateOption = None,
    keyframe_width_s: KeyframeWidthOption = None,
    free_event: FreeEventOption = False,
    device: DeviceOption = "auto",
) -> None:
    """Answer a question about a video and show the evidence.

    Example: videoreasoner ask film.mp4 "What color is the circle?" -o red -o blue
    """
    if batch is None and (video is None or question is None):
        raise QuestionError("give a VIDEO and a QUESTION, or --batch ROWS --out ANSWERS")
    if batch is not None and (out is None or video is not None or option or as_json):
        raise SettingError("--batch takes --out, and neither VIDEO, QUESTION, --option nor --json")
    if batch is None and (out is not None or video_root is not None):
        raise SettingError("--out and --video-root go with --batch")
    # Checked before a model is loaded: a typing mistake should not cost a minute.
    _check_before_loading(mode, video, question, option, batch)
    reasoner = load_reasoner(
        model,
        device,
        encoder,
        free_event,
        frame_budget=frame_budget,
        sparse_rate_fps=sparse_rate_fps,
        dense_share=dense_share,
        dense_rate_fps=dense_rate_fps,
        keyframe_width_s=keyframe_width_s,
    )
    if batch is not None and out is not None:
        _answer_batch(reasoner, batch, out, mode, video_root)
        return
    answer = reasoner.ask(video, question, option or (), mode)
    if as_json:
        typer.echo(json.dumps(answer.to_dict(), ensure_ascii=False, indent=2))
        return
    from videoreasoner.cli.text import describe

    typer.echo(describe(answer))


def _check_before_loading(
    mode: str, video: str | None, question: str | None, option: list[str] | None, batch: Path | None
) -> None:
    from videoreasoner.rows import read_rows_lenient
    from videoreasoner.video.file import VideoFile

    if video is not None:
        VideoFile(video).close()
    if batch is not None:
        read_rows_lenient(batch)
    # Torch and transformers come with it, which takes seconds.
    from videoreasoner.reasoner import MODES, Query

    if mode not in MODES:
        raise SettingError(f"mode {mode!r} is unknown; use one of {', '.join(MODES)}")
    if question is not None:
        Query(question, tuple(option or ()))


def _answer_batch(reasoner, rows, out, mode, video_root) -> None:  # type: ignore[no-untyped-def]
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    from videoreasoner.batch import answer_rows

    columns = (TextColumn("answering"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("answering", total=None)
        result = answer_rows(
            reasoner,
            rows,
            out,
            mode=mode,
            video_root=video_root,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    typer.echo(f"{out}: {result.answered} answered, {result.resumed} were there already, {result.failed} failed")
    if result.failed:
        raise RowError(
            f"{out}: {result.failed} row(s) could not be answered; their records say why, "
            "and the next run asks them again"
        )
