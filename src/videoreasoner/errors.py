"""Named errors. Each message says which input is wrong and what to do about it.

Everything that a user can cause derives from `VideoReasonerError`; the command line turns those
into one line on stderr and exit code 2. Any other exception is a defect of this package and leads
to exit code 1.
"""

import re

# Control characters, and the line breaks of Unicode.
_CONTROL = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\u2028\\u2029]")


class VideoReasonerError(Exception):
    """An input that cannot be used, or a request that cannot be met."""


class VideoError(VideoReasonerError):
    """A video that cannot be opened, or holds no usable frame. Line breaks in its name are escaped in the message."""

    def __init__(self, message: str) -> None:
        super().__init__(_CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), message))


class FrameError(VideoError):
    """Frames that cannot be used, raised where their file is not known; callers add its name."""


class CheckpointError(VideoReasonerError):
    """A model folder or id that cannot be loaded, or is of an unsupported family."""


class QuestionError(VideoReasonerError):
    """A question or its options that cannot be asked."""


class RowError(VideoReasonerError):
    """A line of a data file that is not a valid row."""


class SettingError(VideoReasonerError):
    """A setting or flag whose value makes no sense."""


class MissingExtraError(VideoReasonerError):
    """An optional dependency that is needed for this request and is not installed."""


class RewardError(VideoReasonerError):
    """A reward function that fails, or returns something that is not a reward."""


class TrainingError(VideoReasonerError):
    """A training run that cannot start in its folder, or cannot continue."""


class EvaluationError(VideoReasonerError):
    """A run of a benchmark that cannot start in its folder, continue, or be compared with another."""


class WorkerError(VideoReasonerError):
    """A process that answers questions for another one, and that died."""


class Stopped(VideoReasonerError):
    """The user stopped a command. The message says how far it was and how to go on; the exit code is 130."""
