"""Options that several commands share, and loading a reasoner from them."""

from __future__ import annotations

from typing import Annotated, Any

import typer

ModelOption = Annotated[str, typer.Option("--model", help="A shipped model, a checkpoint folder or a Hugging Face id.")]
ModeOption = Annotated[
    str,
    typer.Option(
        "--mode", help="focus: locate, look densely, answer. direct: one pass. think: one pass, reason in text."
    ),
]
DeviceOption = Annotated[str, typer.Option("--device", help="A torch device, or auto.")]
EncoderOption = Annotated[
    str | None,
    typer.Option("--encoder", help="Text-image encoder for keyframes; none switches it off."),
]
FrameBudgetOption = Annotated[int | None, typer.Option("--frame-budget", help="Most frames a pass looks at.")]
SparseRateOption = Annotated[
    float | None, typer.Option("--sparse-rate-fps", help="Most frames a second over the whole video.")
]
SparseSeekOption = Annotated[
    str | None,
    typer.Option("--sparse-seek", help="exact: sparse frames at even times. keyframe: on key frames, faster."),
]
VideoTimeLimitOption = Annotated[
    float, typer.Option("--video-time-limit", help="Seconds after which a decoder that hangs is stopped.")
]
DenseShareOption = Annotated[
    float | None, typer.Option("--dense-share", help="Share of the frames for key spans, 0 to 1.")
]
DenseRateOption = Annotated[float | None, typer.Option("--dense-rate-fps", help="Most frames a second in key spans.")]
KeyframeWidthOption = Annotated[
    float | None, typer.Option("--keyframe-width-s", help="Seconds of video around a keyframe.")
]
FreeEventOption = Annotated[
    bool,
    typer.Option("--free-event", help="Decode the event without its grammar, to measure parsing."),
]
EventsOption = Annotated[tuple[int, int], typer.Option("--events", help="Fewest and most events of a video.")]
EventShareOption = Annotated[
    tuple[float, float], typer.Option("--event-share", help="Shortest and longest event, share of the video.")
]


def load_reasoner(model: str, device: str, encoder: str | None, free_event: bool, **settings: Any) -> Any:
    """A reasoner, with transformers' own chatter switched off: stderr is for our messages."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    from videoreasoner.inference.reasoner import Reasoner

    return Reasoner.from_pretrained(model, device=device, encoder=encoder, constrain_event=not free_event, **settings)
