"""Options that several commands share. Those for `Settings` are made from its fields."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from videoreasoner.errors import SettingError, Stopped
from videoreasoner.inference.query import Mode
from videoreasoner.settings import Settings
from videoreasoner.utils.progress import ProgressBar
from videoreasoner.utils.validation import did_you_mean

if TYPE_CHECKING:
    from videoreasoner.inference.reasoner import Reasoner

ModelOption = Annotated[
    str,
    typer.Option(
        "--model", envvar="VIDEOREASONER_MODEL", help="A shipped model, a checkpoint folder or a Hugging Face id."
    ),
]
ModeOption = Annotated[
    Mode,
    typer.Option(
        "--mode", help="focus: locate, look densely, answer. direct: one pass. think: one pass, reason in text."
    ),
]
DeviceOption = Annotated[
    str, typer.Option("--device", envvar="VIDEOREASONER_DEVICE", help="A torch device, such as cuda:1 or cpu, or auto.")
]
WorkersOption = Annotated[
    int,
    typer.Option("--workers", help="Number of processes that load the model and answer, each on a GPU of its own."),
]
VideoTimeLimitOption = Annotated[
    float,
    typer.Option(
        "--video-time-limit",
        envvar="VIDEOREASONER_VIDEO_TIME_LIMIT",
        help="Seconds after which a decoder that hangs is stopped.",
    ),
]
EventsOption = Annotated[
    tuple[int, int], typer.Option("--events", help="Smallest and largest number of events in a video.")
]
EventShareOption = Annotated[
    tuple[float, float], typer.Option("--event-share", help="Shortest and longest event, as shares of the video.")
]
_SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="NAME=VALUE for any other setting, such as max_key_elements=4; repeat."),
]

# Settings with a flag of their own in every command that asks a model.
COMMON_SETTINGS = (
    "protocol", "encoder", "frame_budget", "sparse_rate_fps", "dense_share", "dense_rate_fps", "keyframe_width_s",
    "sparse_seek", "retrieval_seek", "min_pixels", "max_pixels",
)  # fmt: skip
# What a checkpoint was trained with; another value would not fit its weights.
_FIXED = {"prompts", "training"}

Command = Callable[..., None]


def takes_settings(*names: str) -> Callable[[Command], Command]:
    """Give a command a flag for each named field of `Settings`, and `--set` for all others.

    The command has a parameter `settings: dict[str, Any]`, which gets the values that were given, by name.
    """

    def decorate(command: Command) -> Command:
        own = inspect.signature(command, eval_str=True)
        kept = [parameter for parameter in own.parameters.values() if parameter.name != "settings"]
        kind = inspect.Parameter.KEYWORD_ONLY
        flags = [inspect.Parameter(name, kind, default=None, annotation=_flag(name)) for name in names]
        rest = inspect.Parameter("changes", kind, default=None, annotation=_SetOption)
        signature = own.replace(parameters=[*kept, *flags, rest])

        @functools.wraps(command)
        def call(**values: Any) -> None:
            given = {name: value for name in names if (value := values.pop(name)) is not None}
            settings = read_settings(values.pop("changes") or (), given)
            command(**values, settings=settings)

        # typer reads both.
        call.__signature__ = signature  # type: ignore[attr-defined]
        call.__annotations__ = {parameter.name: parameter.annotation for parameter in signature.parameters.values()}
        return call

    return decorate


def _flag(name: str) -> Any:
    field = Settings.model_fields[name]
    text = field.description or name
    flag = typer.Option("--" + name.replace("_", "-"), help=f"{text[0].upper()}{text[1:]}.")
    return Annotated[field.annotation | None, flag]  # type: ignore[operator]


def read_settings(changes: Sequence[str], given: dict[str, Any]) -> dict[str, Any]:
    """Settings from flags and from `--set name=value`, values as in YAML.

    Args:
        changes: `name=value`, one each.
        given: name -> value, by flags of their own.

    Raises:
        SettingError: a name is unknown or given twice, or a value cannot be read.
    """
    from videoreasoner.utils.yaml_text import parse_yaml

    known = [name for name in Settings.model_fields if name not in _FIXED]
    settings = dict(given)
    for change in changes:
        name, equals, text = change.partition("=")
        name = name.strip()
        if name not in known:
            raise SettingError(f"--set {change}: there is no setting {name!r}; {did_you_mean(name, known)}")
        if name in settings:
            raise SettingError(f"--set {change}: {name} is given twice; give it once")
        try:
            value = parse_yaml(text)
        except ValueError as error:
            raise SettingError(f"--set {change}: the value cannot be read ({error})") from error
        if not equals or value is None:
            raise SettingError(f"--set {change}: give a value, as in --set {name}=VALUE")
        settings[name] = value
    return settings


@contextmanager
def naming_flags(**flags: str) -> Iterator[None]:
    """Errors about settings name the flags that the user typed.

    Args:
        flags: setting -> flag, such as `duration_s="--duration"`. Names of several words, which no sentence holds, are
            replaced everywhere, others at the beginning of a message.
    """
    try:
        yield
    except SettingError as error:
        text = re.sub(r"^[a-z_]+|\b[a-z]+_[a-z_]+", lambda found: flags.get(found[0], found[0]), str(error))
        raise SettingError(text) from error


@contextmanager
def resumable(name: str, unit: str = "rows", go_on: str = "run the same command to go on") -> Iterator[ProgressBar]:
    """The progress of a task that Ctrl-C may stop.

    Args:
        name: what is being done.
        unit: what is counted, in the plural.
        go_on: how the user goes on after an interrupt.

    Raises:
        Stopped: the user stopped it; the message says how far it was.
    """
    with ProgressBar(name, unit) as progress:
        try:
            yield progress
        except KeyboardInterrupt as stop:
            raise Stopped(f"stopped after {progress.done} of {progress.total} {unit}; {go_on}") from stop


def load_reasoner(
    model: str,
    device: str = "auto",
    *,
    free_event: bool = False,
    video_time_limit_s: float = 300.0,
    settings: dict[str, Any] | None = None,
) -> Reasoner:
    """A reasoner, with transformers' own messages switched off: stderr is for ours."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    from videoreasoner.inference.reasoner import Reasoner

    return Reasoner.from_pretrained(
        model,
        device=device,
        constrain_event=not free_event,
        video_time_limit_s=video_time_limit_s,
        **(settings or {}),
    )


def check_report(report: Path, video: str) -> None:
    """Refuse a page that could not be written after the work is done, or that would replace the video.

    Raises:
        SettingError: there is no such folder, the name is that of a folder, or it is the video itself.
    """
    from videoreasoner.video.pyav.opening import local_path

    if report.is_dir() or not report.parent.is_dir():
        raise SettingError(f"--report {report}: give a file name in a folder that exists")
    video_file = local_path(video)
    if video_file is not None and report.exists() and report.samefile(video_file):
        raise SettingError(f"--report {report}: that is the video; give the page a name of its own")
