"""Settings: how a checkpoint is used, saved beside its weights in `videoreasoner.json`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from videoreasoner.errors import CheckpointError, SettingError
from videoreasoner.prompts import Prompts
from videoreasoner.protocols import NATIVE, protocol_settings
from videoreasoner.tasks import Task
from videoreasoner.utils.files import read_json
from videoreasoner.utils.validation import explain
from videoreasoner.video.sampling import SamplingSettings

SETTINGS_FILE = "videoreasoner.json"
_MOST_BYTES = 2**24
# The settings that decide a search for texts, beside the encoder.
SEARCH_SETTINGS = (
    "retrieval_rate_fps", "retrieval_max_frames", "retrieval_segment_frames", "retrieval_seek", "sparse_seek",
)  # fmt: skip


class Settings(BaseModel):
    """How a checkpoint samples videos and is asked, in training and in inference."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    frame_budget: int = Field(64, ge=2, description="largest number of frames in a pass")
    sparse_rate_fps: float = Field(2.0, gt=0, description="largest frame rate over the whole video")
    dense_share: float = Field(0.5, ge=0, le=1, description="share of the frame budget for key spans, 0 to 1")
    dense_rate_fps: float = Field(6.0, gt=0, description="largest frame rate in key spans")
    sparse_seek: Literal["exact", "keyframe"] = Field(
        "exact",
        description="exact: sparse frames at even times; keyframe: on the nearest key frames, which is much faster",
    )
    keyframe_width_s: float = Field(2.0, gt=0, description="seconds of video around a keyframe")
    min_pixels: int = Field(128 * 28 * 28, ge=1, description="smallest area of a resized frame, in pixels")
    max_pixels: int = Field(256 * 28 * 28, ge=1, description="largest area of a resized frame, in pixels")
    pixel_limits: Literal["ordered", "published"] = Field(
        "ordered",
        description="published: min_pixels may be the larger one; it then enlarges frames that are below max_pixels",
    )
    encoder: str | None = Field(None, description="text-image encoder that finds keyframes; none: use the event alone")
    retrieval_rate_fps: float = Field(1.0, gt=0, description="frames per second that the encoder looks at")
    retrieval_max_frames: int = Field(768, ge=1, description="largest number of frames that the encoder looks at")
    retrieval_segment_frames: int = Field(1, ge=1, description="frames averaged into a segment")
    retrieval_seek: Literal["auto", "exact", "keyframe"] = Field(
        "auto",
        description=(
            "exact: search frames at even times, in full size; keyframe: search key frames only; auto: search at even "
            "times where few frames must be decoded for that, and otherwise frames that are cheap to decode"
        ),
    )
    max_key_elements: int = Field(8, ge=0, description="largest number of key elements to look for")
    max_new_tokens: int = Field(128, ge=1, description="longest completion of a task, in tokens")
    # The length of GRPO's completions in the published scripts.
    max_thought_tokens: int = Field(768, ge=1, description="longest reasoning with its answer, in tokens")
    protocol: Literal["native", "paper"] = Field(
        "native", description="native: the settings of the checkpoint; paper: those that the paper evaluated with"
    )
    prompts: Prompts = Prompts()
    training: dict[str, Any] = Field(default_factory=dict, description="how it was trained")

    @field_validator("prompts", mode="before")
    @classmethod
    def _named_prompts(cls, given: Any) -> Any:
        try:
            return Prompts.preset(given) if isinstance(given, str) else given
        except SettingError as error:
            raise ValueError(str(error).removeprefix("prompts: ")) from error

    @model_validator(mode="after")
    def _pixel_limits_in_order(self) -> Settings:
        if self.pixel_limits == "ordered" and self.min_pixels > self.max_pixels:
            raise ValueError(
                f"min_pixels ({self.min_pixels}) is larger than max_pixels ({self.max_pixels}); lower it, or see "
                "pixel_limits"
            )
        return self

    @property
    def sampling(self) -> SamplingSettings:
        return SamplingSettings(self.frame_budget, self.sparse_rate_fps, self.dense_share, self.dense_rate_fps)

    def max_tokens(self, task: Task) -> int:
        """The longest completion of a task, in tokens."""
        return self.max_thought_tokens if task is Task.THINK else self.max_new_tokens

    def for_inference(self) -> dict[str, Any]:
        """How videos are sampled and searched: all settings but the prompts and the record of training.

        Under a protocol other than `native`, `protocol_changes` is among them.
        """
        settings = self.model_dump(exclude={"prompts", "training"})
        return settings if self.protocol == NATIVE else {**settings, "protocol_changes": self.protocol_changes}

    @property
    def protocol_changes(self) -> dict[str, Any]:
        """Where the settings differ from their protocol: field -> what the protocol says."""
        wanted = protocol_settings(self.protocol)
        return {name: value for name, value in wanted.items() if getattr(self, name) != value}

    def changed(self, **values: Any) -> Settings:
        """A copy with some values replaced; a value of None is left as it is.

        A protocol brings its own values, and those that are given beside it win.

        Raises:
            SettingError: a name is unknown or a value makes no sense.
        """
        given = {name: value for name, value in values.items() if value is not None}
        given = {**protocol_settings(given.get("protocol", NATIVE)), **given}
        try:
            return Settings.model_validate({**self.model_dump(), **given})
        except ValidationError as error:
            raise SettingError(explain(error, Settings, "setting")) from error

    def save(self, folder: Path) -> None:
        """Write them into a checkpoint folder; without the protocol, which says where one evaluation had them from."""
        content = self.model_dump_json(indent=2, exclude={"protocol"})
        (folder / SETTINGS_FILE).write_text(content + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Settings:
        """The settings saved in a checkpoint folder, or the defaults for a plain Hugging Face one.

        Raises:
            CheckpointError: the file is there and is not valid.
        """
        path = folder / SETTINGS_FILE
        if not path.exists():
            return cls()
        try:
            content = read_json(path, _MOST_BYTES)
            # Checkpoints without the field were trained with the spaces at the end of each prefix.
            if isinstance(content, dict) and isinstance(content.get("prompts"), dict):
                content["prompts"].setdefault("prefix_keeps_space", True)
            return cls.model_validate(content)
        except ValidationError as error:
            raise CheckpointError(f"{path}: {explain(error, cls, 'setting')}") from error
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path}: not JSON that can be read ({error}); copy the file again") from error
