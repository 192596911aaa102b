"""VideoReasoner: answers questions about videos, and shows its evidence.

from videoreasoner import Reasoner
answer = Reasoner.from_pretrained("tiny").ask("video.mp4", "What color is the circle?")
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from videoreasoner.inference.answer import Answer as Answer
    from videoreasoner.inference.answer import FrameUse as FrameUse
    from videoreasoner.inference.answer import Usage as Usage
    from videoreasoner.inference.reasoner import Query as Query
    from videoreasoner.inference.reasoner import Reasoner as Reasoner
    from videoreasoner.retrieval.keyframes import Keyframe as Keyframe
    from videoreasoner.spans import Span as Span
    from videoreasoner.video.frames import Frames as Frames
    from videoreasoner.video.pyav.file import VideoFile as VideoFile

__version__ = "0.1.0"

_HOMES = {
    "Answer": "inference.answer",
    "FrameUse": "inference.answer",
    "Frames": "video.frames",
    "Keyframe": "retrieval.keyframes",
    "Query": "inference.reasoner",
    "Reasoner": "inference.reasoner",
    "Span": "spans",
    "Usage": "inference.answer",
    "VideoFile": "video.pyav.file",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    # Loaded on first use: reading a video file needs no torch, and a usage error should not wait for it.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
