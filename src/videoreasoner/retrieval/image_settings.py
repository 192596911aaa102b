"""`preprocessor_config.json` of an encoder, checked before transformers makes an image processor from it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from videoreasoner.errors import CheckpointError
from videoreasoner.models.folder.configuration import read_checkpoint_json
from videoreasoner.utils.validation import explain

_Side = Annotated[int, Field(ge=1, le=4096)]
_Sides = Annotated[dict[str, _Side], Field(min_length=1, max_length=2)]
_Level = Annotated[float, Field(ge=-1e3, le=1e3)]
_Deviation = Annotated[float, Field(gt=0, le=1e3)]
_Levels = Annotated[list[_Level], Field(min_length=3, max_length=3)]
_Deviations = Annotated[list[_Deviation], Field(min_length=3, max_length=3)]


class ImageSettings(BaseModel):
    """The fields that decide what an image becomes."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)

    image_processor_type: str | None = None
    feature_extractor_type: str | None = None
    do_resize: bool | None = None
    do_center_crop: bool | None = None
    do_convert_rgb: bool | None = None
    do_rescale: bool | None = None
    do_normalize: bool | None = None
    do_pad: bool | None = None
    resample: Annotated[int, Field(ge=0, le=5)] | None = None
    rescale_factor: Annotated[float, Field(gt=0, le=1)] | None = None
    size: _Side | _Sides | None = None
    crop_size: _Side | _Sides | None = None
    image_mean: _Level | _Levels | None = None
    image_std: _Deviation | _Deviations | None = None
    patch_size: Annotated[int, Field(ge=1, le=256)] | None = None
    max_num_patches: Annotated[int, Field(ge=1, le=2**16)] | None = None


def check_image_settings(folder: Path, processor: type) -> None:
    """Refuse image settings that make no sense.

    Args:
        processor: transformers' class that is made from them.

    Raises:
        CheckpointError: a field has the wrong type, or is out of range.
    """
    for name in ("preprocessor_config.json", "processor_config.json"):
        path = folder / name
        if not path.exists():
            continue
        content = read_checkpoint_json(path)
        settings = content.get("image_processor", content)
        try:
            ImageSettings.model_validate(settings)
        except ValidationError as error:
            problem = explain(error)[:300]
            raise CheckpointError(f"{path}: not a processor configuration ({problem}); copy the file again") from error
        # transformers sets every key as an attribute, so that one could stand in the place of a method.
        taken = sorted(key for key in settings if not key.startswith("__") and _is_code(getattr(processor, key, None)))
        if taken:
            raise CheckpointError(f"{path}: {taken[0]} is no setting; copy the file again")


def _is_code(attribute: object) -> bool:
    return callable(attribute) or isinstance(attribute, property)
