"""`videoreasoner ask`: one question about one video, or a file of them."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from videoreasoner.cli.options import (
    COMMON_SETTINGS,
    DeviceOption,
    ModelOption,
    ModeOption,
    VideoTimeLimitOption,
    WorkersOption,
    check_report,
    load_reasoner,
    resumable,
    takes_settings,
)
from videoreasoner.errors import QuestionError, RowError, SettingError
from videoreasoner.utils.terminal import say

if TYPE_CHECKING:
    from videoreasoner.inference.candidate import LocalCandidate
    from videoreasoner.inference.reasoner import Reasoner
    from videoreasoner.rows import Row


# So many reasons of failed rows are shown, each cut to so many characters; all are in the records.
_MOST_REASONS = 5
_MOST_CHARACTERS = 300

_log = logging.getLogger(__name__)


@takes_settings(*COMMON_SETTINGS)
def ask(
    video: Annotated[str | None, typer.Argument(help="A video file or URL.")] = None,
    question: Annotated[str | None, typer.Argument(help="The question.")] = None,
    option: Annotated[
        list[str] | None, typer.Option("--option", "-o", help="An option to choose from; repeat.")
    ] = None,
    start_s: Annotated[float, typer.Option("--from", help="Look only at what comes after so many seconds.")] = 0.0,
    end_s: Annotated[float | None, typer.Option("--to", help="Look only at what comes before so many seconds.")] = None,
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
    batch: Annotated[
        Path | None,
        typer.Option(
            "--batch", help="File of rows to answer: JSON lines, a JSON array or CSV; - reads stdin. Needs --out."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="File of answers, JSON lines; - writes stdout. The same command continues it."),
    ] = None,
    video_root: Annotated[
        Path | None, typer.Option("--video-root", help="Folder of the videos named in the rows.")
    ] = None,
    workers: WorkersOption = 1,
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
    if batch is not None and (video is not None or option or as_json or report is not None):
        raise SettingError(
            "--batch reads questions from a file: leave out VIDEO, QUESTION, --option, --json and --report"
        )
    if batch is not None and (start_s != 0.0 or end_s is not None):
        raise SettingError("--from and --to go with one VIDEO and not with --batch")
    if batch is not None and out is None:
        raise SettingError("--batch needs --out: give a file name for the answers, or - for stdout")
    if batch is None and (out is not None or video_root is not None or workers != 1):
        raise SettingError("--out, --video-root and --workers go with --batch")
    if report is None and (true_answer is not None or true_event is not None):
        raise SettingError("--true-answer and --true-event go with --report")
    from videoreasoner.cli.text import describe, print_warnings
    from videoreasoner.inference.query import Query
    from videoreasoner.rows import read_rows
    from videoreasoner.utils.progress import StageBar
    from videoreasoner.video.isolated.file import GuardedVideoFile, check_time_limit
    from videoreasoner.video.video_range import VideoRange

    def load() -> Reasoner:
        return load_reasoner(
            model, device, free_event=free_event, video_time_limit_s=video_time_limit, settings=settings
        )

    def candidate() -> LocalCandidate:
        import torch

        from videoreasoner.inference.candidate import LocalCandidate

        # All workers together use as many threads as one process would.
        threads = max(1, torch.get_num_threads() // workers)
        return LocalCandidate(model, device, threads, settings, not free_event, video_time_limit)

    # Rows, question and video are checked before a model is loaded: a typing mistake should not cost a minute.
    check_time_limit(video_time_limit)
    if batch is not None and out is not None:
        if str(batch) != "-":
            read_rows(batch)
        _answer_batch(candidate, batch, out, mode, video_root, workers)
        return
    assert video is not None
    assert question is not None
    Query(question, tuple(option or ()))
    if report is not None:
        check_report(report, video)
    truth = _truth(video, question, option, true_answer, true_event)
    # Opened once, for the checks, the answer and the pictures of the page.
    with GuardedVideoFile(video, video_time_limit) as opened:
        with StageBar() as bar:
            bar("open", 0, 1)
            VideoRange(opened, start_s, end_s)
            bar("load the model", 0, 1)
            answer = load().ask(
                opened,
                question,
                option or (),
                mode,
                start_s=start_s,
                end_s=end_s,
                progress=lambda now: bar(now.stage, now.done, now.total),
            )
        print_warnings(answer)
        if as_json:
            say(json.dumps(answer.to_dict(), ensure_ascii=False, indent=2))
        else:
            say(describe(answer))
        if report is not None:
            from videoreasoner.inference.report.answer_page import write_report

            write_report(answer, report, truth, video=opened)
            if not as_json:
                say(f"Report        {report}")


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


def _answer_batch(
    candidate: Callable[[], LocalCandidate],
    batch: Path,
    out: Path,
    mode: str,
    video_root: Path | None,
    workers: int,
) -> None:
    from videoreasoner.inference.batch import answer_rows, load_rows
    from videoreasoner.inference.workers import check_workers

    check_workers(workers)
    to_stdout = str(out) == "-"
    rows = load_rows(sys.stdin.buffer if str(batch) == "-" else batch)
    go_on = "the answers so far were printed" if to_stdout else "run the same command to go on"
    with resumable("answering", "rows", go_on) as progress:
        target = sys.stdout.buffer if to_stdout else out
        result = answer_rows(
            candidate(), rows, target, mode=mode, video_root=video_root, workers=workers, progress=progress
        )
    say(
        f"{out}: {result.answered} answered, {result.resumed} had an answer already, {result.failed} failed",
        to_stderr=to_stdout,
    )
    for reason, ids in list(result.reasons.items())[:_MOST_REASONS]:
        named = ", ".join("a line without an id" if name is None else str(name) for name in ids[:3])
        more = f" and {len(ids) - 3} more" if len(ids) > 3 else ""
        _log.warning("%s%s: %s", named, more, reason[:_MOST_CHARACTERS])
    if result.failed:
        hidden = len(result.reasons) - _MOST_REASONS
        others = f"; {hidden} other reason(s) are not shown" if hidden > 0 else ""
        raise RowError(
            f"{out}: {result.failed} row(s) could not be answered{others}; their records say why, "
            "and the next run asks them again"
        )
