"""Frames -> the patches that a Qwen-VL vision tower takes, without torchvision.

The result is bit-equal to that of transformers' `Qwen2VLVideoProcessor`. The resize works on uint8 with torch's
antialiased bicubic kernel, as torchvision's does; a resize in float differs by one grey level.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from videoreasoner.errors import CheckpointError, FrameError
from videoreasoner.utils.files import read_json

# The limit of transformers. A longer frame would become one patch high and thousands of patches wide.
MAX_ASPECT_RATIO = 200
_WHOLE_PROCESSOR = "processor_config.json"


@dataclass(frozen=True)
class PatchSettings:
    """Geometry and normalisation of a vision tower's input.

    `min_pixels` and `max_pixels` bound the area of one resized frame, in pixels. `min_pixels` may be the larger one:
    then a frame above `max_pixels` is reduced to that, and every other one is enlarged to `min_pixels`, as in the
    published code. At limits of 128 * 28 * 28 and 80 * 28 * 28, a frame of 224x224 gets 144 tokens and one of 640x480
    gets 70.
    """

    patch_size: int = 14
    merge_size: int = 2
    temporal_patch_size: int = 2
    min_pixels: int = 128 * 28 * 28
    max_pixels: int = 256 * 28 * 28
    image_mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    image_std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)

    def __post_init__(self) -> None:
        for name in ("patch_size", "merge_size", "temporal_patch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if len(self.image_mean) != 3 or len(self.image_std) != 3 or not min(self.image_std) > 0:
            raise ValueError("image_mean and image_std must hold three numbers, image_std positive")

    @property
    def factor(self) -> int:
        """Both sides of a resized frame are multiples of this."""
        return self.patch_size * self.merge_size

    @property
    def largest_side(self) -> int:
        """Side of a square frame, in pixels, that gets about as many tokens as any frame can."""
        return max(self.factor, math.isqrt(self.max_pixels) // self.factor * self.factor)

    @classmethod
    def from_folder(cls, folder: Path, *, min_pixels: int, max_pixels: int) -> PatchSettings:
        """Read the processor file of a checkpoint; the pixel limits come from the caller.

        transformers 5 saves a processor as one `processor_config.json`, which holds those of images and videos.

        Raises:
            CheckpointError: no processor file is there, or it is not readable.
        """
        for name in ("video_preprocessor_config.json", "preprocessor_config.json", _WHOLE_PROCESSOR):
            path = folder / name
            if path.is_file():
                break
        else:
            raise CheckpointError(
                f"{folder}: no video_preprocessor_config.json, preprocessor_config.json or {_WHOLE_PROCESSOR}; "
                "copy the processor files of the model that this one was trained from"
            )
        try:
            config = read_json(path)
            if name == _WHOLE_PROCESSOR:
                config = config.get("video_processor") or config["image_processor"]
            return cls(
                patch_size=int(config.get("patch_size", cls.patch_size)),
                merge_size=int(config.get("merge_size", cls.merge_size)),
                temporal_patch_size=int(config.get("temporal_patch_size", cls.temporal_patch_size)),
                min_pixels=min_pixels,
                max_pixels=max_pixels,
                image_mean=tuple(config.get("image_mean", cls.image_mean)),
                image_std=tuple(config.get("image_std", cls.image_std)),
            )
        except (OSError, OverflowError, LookupError, ValueError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{path}: not a processor configuration ({error})") from error


@dataclass(frozen=True, eq=False)
class Patches:
    """What a vision tower takes.

    Attributes:
        pixel_values: float32[T * H * W, 3 * temporal * patch * patch], patches in merge order.
        grid: (T, H, W): temporal patches, and patches down and across.
    """

    pixel_values: Tensor
    grid: tuple[int, int, int]


def resized_size(height: int, width: int, settings: PatchSettings) -> tuple[int, int]:
    """The height and width a frame is resized to: multiples of the factor, area within the limits.

    See `PatchSettings` for limits of the other order.

    Raises:
        FrameError: the frame is more than 200 times as long as it is wide.
    """
    if max(height, width) > MAX_ASPECT_RATIO * min(height, width):
        raise FrameError(
            f"frames of {width}x{height} pixels are more than {MAX_ASPECT_RATIO} times as long as wide; "
            "crop or pad the video first"
        )
    factor = settings.factor
    new_height, new_width = round(height / factor) * factor, round(width / factor) * factor
    if new_height * new_width > settings.max_pixels:
        beta = math.sqrt(height * width / settings.max_pixels)
        new_height = max(factor, math.floor(height / beta / factor) * factor)
        new_width = max(factor, math.floor(width / beta / factor) * factor)
    elif new_height * new_width < settings.min_pixels:
        beta = math.sqrt(settings.min_pixels / (height * width))
        new_height = math.ceil(height * beta / factor) * factor
        new_width = math.ceil(width * beta / factor) * factor
    return new_height, new_width


def resize(pixels: NDArray[np.uint8], settings: PatchSettings) -> Tensor:
    """uint8[T, H, W, 3] -> uint8[T, 3, H', W'] at the size that `resized_size` gives."""
    size = resized_size(pixels.shape[1], pixels.shape[2], settings)
    frames = torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2)
    if size == tuple(pixels.shape[1:3]):
        return frames.contiguous()
    return functional.interpolate(frames, size=size, mode="bicubic", antialias=True)


def patchify(frames: Tensor, settings: PatchSettings) -> Patches:
    """Resized frames uint8[T, 3, H, W] -> normalised patches.

    Raises:
        ValueError: T is no multiple of the temporal patch size.
    """
    count, channels, height, width = frames.shape
    temporal, patch, merge = settings.temporal_patch_size, settings.patch_size, settings.merge_size
    if count % temporal:
        raise ValueError(f"{count} frames cannot be grouped by {temporal}")
    grid = (count // temporal, height // patch, width // patch)
    # Mean and deviation in grey levels: transformers fuses rescaling into them, and the last bit depends on it.
    mean = torch.tensor(settings.image_mean) * 255.0
    std = torch.tensor(settings.image_std) * 255.0
    normal = (frames.float() - mean.view(-1, 1, 1)) / std.view(-1, 1, 1)
    blocks = normal.view(
        grid[0], temporal, channels, grid[1] // merge, merge, patch, grid[2] // merge, merge, patch
    ).permute(0, 3, 6, 4, 7, 2, 1, 5, 8)
    return Patches(blocks.reshape(math.prod(grid), channels * temporal * patch * patch), grid)
