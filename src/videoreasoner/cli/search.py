"""`videoreasoner search`: when something can be seen in a video, found without a language model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from videoreasoner.cli.options import DeviceOption, VideoTimeLimitOption, check_report, takes_settings
from videoreasoner.errors import QuestionError, SettingError
from videoreasoner.settings import SEARCH_SETTINGS, Settings
from videoreasoner.utils.terminal import say

if TYPE_CHECKING:
    from videoreasoner.retrieval.search import SearchResult

# They bound the size of the page.
_MOST_TEXTS = 32
_MOST_CHARACTERS = 1000
_MOST_MOMENTS = 20


@takes_settings(*SEARCH_SETTINGS)
def search(
    video: Annotated[str, typer.Argument(help="A video file or URL.")],
    text: Annotated[list[str], typer.Argument(help="What to look for, such as 'a red circle'; one or more.")],
    top: Annotated[
        int, typer.Option("--top", min=1, max=_MOST_MOMENTS, help="Largest number of moments to show for each text.")
    ] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    encoder: Annotated[
        str,
        typer.Option("--encoder", help="Text-image encoder: a shipped one, a folder, a Hugging Face id, open_clip:..."),
    ] = "tiny-encoder",
    report: Annotated[
        Path | None, typer.Option("--report", help="Write an HTML page with the similarity over time and pictures.")
    ] = None,
    device: DeviceOption = "auto",
    video_time_limit: VideoTimeLimitOption = 300.0,
    *,
    settings: dict[str, Any],
) -> None:
    """Show when something can be seen in a video: the best moments for each text, by a text-image encoder.

    Example: videoreasoner search video.mp4 "a red circle" "a digit" --report page.html
    """
    from videoreasoner.video.isolated.file import GuardedVideoFile

    texts = _check_texts(text)
    if without_effect := sorted(settings.keys() - set(SEARCH_SETTINGS)):
        raise SettingError(f"--set {without_effect[0]}: has no effect on a search; leave it out")
    wanted = Settings().changed(**settings)
    if report is not None:
        check_report(report, video)
    # Opened before torch is imported: a wrong path should not cost seconds.
    with GuardedVideoFile(video, video_time_limit) as opened:
        import torch
        import transformers

        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        from videoreasoner.retrieval.encoder import load_encoder
        from videoreasoner.retrieval.search import VideoSearch

        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        result = VideoSearch(load_encoder(encoder, device), wanted).find(opened, texts, top)
        if as_json:
            say(json.dumps(result.to_dict(), ensure_ascii=False, indent=2))
        else:
            say(_describe(result))
        if report is not None:
            from videoreasoner.inference.report.search_page import write_search_report

            write_search_report(result, report, opened)
            if not as_json:
                say(f"Report  {report}")


def _check_texts(texts: list[str]) -> list[str]:
    tidy = [" ".join(text.split()) for text in texts]
    if "" in tidy:
        raise QuestionError("a TEXT is empty; say what to look for")
    if len(tidy) > _MOST_TEXTS:
        raise QuestionError(f"{len(tidy)} texts given; at most {_MOST_TEXTS} are searched for at once")
    if (longest := max(map(len, tidy))) > _MOST_CHARACTERS:
        raise QuestionError(f"a TEXT has {longest:,} characters; at most {_MOST_CHARACTERS:,} are taken")
    return tidy


def _describe(result: SearchResult) -> str:
    lines = []
    for text, moments in zip(result.texts, result.moments, strict=True):
        lines.append(text)
        lines += [
            f"  {moment.time_s:8.2f} s   similarity {moment.score:.3f}   {moment.start_s:.2f} to {moment.end_s:.2f} s"
            for moment in moments
        ]
    lines.append(f"{result.frames_searched} frames of {result.duration_s:.1f} s searched with {result.encoder}")
    lines += [f"Note: {note}" for note in result.notes]
    return "\n".join(lines)
