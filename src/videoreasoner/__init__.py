"""VideoReasoner: answers questions about videos, and shows its evidence.

from videoreasoner import Reasoner
answer = Reasoner.from_pretrained("tiny").ask("video.mp4", "What color is the circle?")
"""

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

from videoreasoner.version import __version__ as __version__

if TYPE_CHECKING:
    from videoreasoner.errors import CheckpointError as CheckpointError
    from videoreasoner.errors import EvaluationError as EvaluationError
    from videoreasoner.errors import FrameError as FrameError
    from videoreasoner.errors import MissingExtraError as MissingExtraError
    from videoreasoner.errors import QuestionError as QuestionError
    from videoreasoner.errors import RewardError as RewardError
    from videoreasoner.errors import RowError as RowError
    from videoreasoner.errors import SettingError as SettingError
    from videoreasoner.errors import Stopped as Stopped
    from videoreasoner.errors import TrainingError as TrainingError
    from videoreasoner.errors import VideoError as VideoError
    from videoreasoner.errors import VideoReasonerError as VideoReasonerError
    from videoreasoner.errors import WorkerError as WorkerError
    from videoreasoner.inference.answer import Answer as Answer
    from videoreasoner.inference.answer import FrameUse as FrameUse
    from videoreasoner.inference.answer import Usage as Usage
    from videoreasoner.inference.query import Query as Query
    from videoreasoner.inference.reasoner import Reasoner as Reasoner
    from videoreasoner.retrieval.keyframes import Keyframe as Keyframe
    from videoreasoner.spans import Span as Span
    from videoreasoner.video.frame_array import FrameArray as FrameArray
    from videoreasoner.video.frames import Frames as Frames
    from videoreasoner.video.pyav.file import VideoFile as VideoFile

# The package logs and prints nothing by itself; the command line shows its log on stderr.
logging.getLogger(__name__).addHandler(logging.NullHandler())

# Public name -> the module that defines it. Modules are imported on first use: reading a video file needs no torch,
# and a usage error of the command line should not wait for it.
_MODULES = {
    "Answer": "inference.answer",
    "CheckpointError": "errors",
    "EvaluationError": "errors",
    "FrameArray": "video.frame_array",
    "FrameError": "errors",
    "FrameUse": "inference.answer",
    "Frames": "video.frames",
    "Keyframe": "retrieval.keyframes",
    "MissingExtraError": "errors",
    "Query": "inference.query",
    "QuestionError": "errors",
    "Reasoner": "inference.reasoner",
    "RewardError": "errors",
    "RowError": "errors",
    "SettingError": "errors",
    "Span": "spans",
    "Stopped": "errors",
    "TrainingError": "errors",
    "Usage": "inference.answer",
    "VideoError": "errors",
    "VideoFile": "video.pyav.file",
    "VideoReasonerError": "errors",
    "WorkerError": "errors",
}
__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
