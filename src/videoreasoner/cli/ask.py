"""`videoreasoner ask`: one question about one video, or a file of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from videoreasoner.cli.options import (
    COMMON_SETTINGS,
    DeviceOption,
    ModelOption,
    ModeOption,
    VideoTimeLimitOption,
    check_report,
    load_reasoner,
    takes_settings,
)
from videoreasoner.errors import QuestionError, RowError, SettingError

if TYPE_CHECKING:
    from videoreasoner.inference.reasoner import Reasoner
    from videoreasoner.rows import Row


@takes_settings(*COMMON_SETTINGS)
def ask(
    video: Annotated[str | None, typer.Argument(help="A video file or URL.")] = None,
    question: Annotated[str | None, typer.Argument(help="What you want to know.")] = None,
    option: Annotated[
        list[str] | None, typer.Option("--option", "-o", help="An answer to choose from; repeat.")
    ] = None,
    model: ModelOption = "tiny",
    mode: ModeOption = "focus",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    report: Annotated[
        Path | None, typer.Option("--report", help="Write the answer with its evidence as an HTML page.")
    ] = None,
    true_answer: Annotated[
        str | None, typer.Option("--true-answer", help="The right answer, which the page shows beside the answer.")
    ] = None,
    true_event: Annotated[
        tuple[float, float] | None, typer.Option("--true-event", help="The true event: start and end in seconds.")
    ] = None,
    batch: Annotated[Path | None, typer.Option("--batch", help="Rows to answer, JSON lines; needs --out.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Answers, JSON lines; the same command continues a killed run.")
    ] = None,
    video_root: Annotated[
        Path | None, typer.Option("--video-root", help="Folder of the videos named in the rows.")
    ] = None,
    free_event: Annotated[
        bool, typer.Option("--free-event", help="Decode the event without its grammar, to measure parsing.")
    ] = False,
    device: DeviceOption = "auto",
    video_time_limit: VideoTimeLimitOption = 300.0,
    *,
    settings: dict[str, Any],
) -> None:
    """Answer a question about a video and show the evidence.

    Example: videoreasoner ask video.mp4 "What color is the circle?" -o red -o blue
    """
    if batch is None and (video is None or question is None):
        raise QuestionError("give a VIDEO and a QUESTION, or --batch ROWS --out ANSWERS")
    if batch is not None and (out is None or video is not None or option or as_json or report is not None):
        raise SettingError("--batch takes --out, and neither VIDEO, QUESTION, --option, --json nor --report")
    if batch is None and (out is not None or video_root is not None):
        raise SettingError("--out and --video-root go with --batch")
    if report is None and (true_answer is not None or true_event is not None):
        raise SettingError("--true-answer and --true-event go with --report")
    from videoreasoner.inference.query import Query
    from videoreasoner.rows import read_rows
    from videoreasoner.video.isolated.file import GuardedVideoFile, check_time_limit

    def load() -> Reasoner:
        return load_reasoner(
            model, device, free_event=free_event, video_time_limit_s=video_time_limit, settings=settings
        )

    # Rows, question and video are checked before a model is loaded: a typing mistake should not cost a minute.
    check_time_limit(video_time_limit)
    if batch is not None and out is not None:
        read_rows(batch)
        _answer_batch(load(), batch, out, mode, video_root)
        return
    assert video is not None
    assert question is not None
    Query(question, tuple(option or ()))
    if report is not None:
        check_report(report, video)
    truth = _truth(video, question, option, true_answer, true_event)
    # Opened once, for the check, the answer and the pictures of the page.
    with GuardedVideoFile(video, video_time_limit) as opened:
        answer = load().ask(opened, question, option or (), mode)
        if as_json:
            typer.echo(json.dumps(answer.to_dict(), ensure_ascii=False, indent=2))
        else:
            from videoreasoner.cli.text import describe

            typer.echo(describe(answer))
        if report is not None:
            from videoreasoner.inference.report.answer_page import write_report

            write_report(answer, report, truth, video=opened)
            if not as_json:
                typer.echo(f"Report        {report}")


def _truth(
    video: str, question: str, option: list[str] | None, answer: str | None, event: tuple[float, float] | None
) -> Row:
    from pydantic import ValidationError

    from videoreasoner.rows import Row
    from videoreasoner.utils.validation import explain

    known = {"id": "asked", "video": video, "question": question, "options": option or None}
    try:
        return Row.model_validate({**known, "answer": answer, "event": event})
    except ValidationError as error:
        raise QuestionError(f"--true-answer or --true-event cannot be used: {explain(error)}") from error


def _answer_batch(reasoner: Reasoner, rows: Path, out: Path, mode: str, video_root: Path | None) -> None:
    from videoreasoner.inference.batch import answer_rows
    from videoreasoner.utils.progress import ProgressBar

    with ProgressBar("answering") as progress:
        result = answer_rows(reasoner, rows, out, mode=mode, video_root=video_root, progress=progress)
    typer.echo(f"{out}: {result.answered} answered, {result.resumed} had an answer already, {result.failed} failed")
    if result.failed:
        raise RowError(
            f"{out}: {result.failed} row(s) could not be answered; their records say why, "
            "and the next run asks them again"
        )
