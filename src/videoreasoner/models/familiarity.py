"""Whether a video looks like those that a checkpoint was trained on, as far as its vision tower can tell.

A model that saw one kind of video answers about any other with the same confidence. The features of frame pairs of its
own videos lie close to a plane of few dimensions. Those of other videos do not, and their distance from it tells the
two apart. A checkpoint has such a plane if `familiarity.json` lies beside its weights; the shipped ones do
(`experiments.tiny.familiarity` fits it). A trained copy has none, because its vision tower is another one.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Self

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import Tensor

from videoreasoner.errors import CheckpointError
from videoreasoner.utils.files import replacing
from videoreasoner.utils.validation import explain

FAMILIARITY_FILE = "familiarity.json"
# Enough that the numbers, which are about 0.1, change no distance by a hundredth of the limit.
_DECIMALS = 4


class Familiarity(BaseModel):
    """A plane near the pair features of familiar videos.

    A pair's feature is the mean of its visual tokens. The distance of a video is the median, over its pairs, of their
    squared distance from the plane.

    Attributes:
        mean: D numbers, a point of the plane.
        directions: K rows of D numbers, orthonormal: where the plane goes from there.
        limit: the largest distance of a familiar video.
        warning: the sentence that an answer about another video carries.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    mean: list[float] = Field(min_length=1)
    directions: list[list[float]]
    limit: float = Field(gt=0)
    warning: str

    @model_validator(mode="after")
    def _one_width(self) -> Self:
        if any(len(row) != len(self.mean) for row in self.directions):
            raise ValueError(f"every direction needs {len(self.mean)} numbers, as the mean has")
        return self

    def distance(self, pairs: Tensor) -> float:
        """How far a video is from the familiar ones.

        Args:
            pairs: float[P, N, D], the N visual tokens of each of P >= 1 pairs, on any device.

        Raises:
            CheckpointError: the features have another width.
        """
        if pairs.shape[-1] != len(self.mean):
            raise CheckpointError(
                f"{FAMILIARITY_FILE} describes features of {len(self.mean)} numbers, and the model's have "
                f"{pairs.shape[-1]}; delete the file"
            )
        centred = pairs.float().mean(1).cpu() - torch.tensor(self.mean)
        inside = centred @ torch.tensor(self.directions).reshape(-1, len(self.mean)).T
        return float((centred.square().sum(1) - inside.square().sum(1)).median())

    def warnings(self, pairs: Tensor) -> tuple[str, ...]:
        """The warning if the video is not familiar, nothing otherwise. For `pairs` see `distance`."""
        return (self.warning,) if self.distance(pairs) > self.limit else ()

    @classmethod
    def fit(cls, pairs: Tensor, directions: int, limit: float, warning: str) -> Self:
        """The plane that is nearest to some pairs.

        Args:
            pairs: float[P, N, D], from many familiar videos.
            directions: K, fewer than P and at most D.
            limit, warning: see the class.
        """
        features = pairs.double().mean(1)
        mean = features.mean(0)
        rows = torch.linalg.svd(features - mean, full_matrices=False)[2][:directions]
        rounded = [[round(value, _DECIMALS) for value in row] for row in rows.tolist()]
        return cls(
            mean=[round(value, _DECIMALS) for value in mean.tolist()],
            directions=rounded,
            limit=limit,
            warning=warning,
        )

    def save(self, folder: Path) -> None:
        """Write it beside the weights of a checkpoint."""
        with replacing(folder / FAMILIARITY_FILE) as partial:
            partial.write_text(json.dumps(self.model_dump()) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path | None) -> Self | None:
        """What a checkpoint folder says; None if it says nothing.

        Raises:
            CheckpointError: the file is there and is not valid.
        """
        path = None if folder is None else folder / FAMILIARITY_FILE
        if path is None or not path.is_file():
            return None
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise CheckpointError(f"{path}: {explain(error)}") from error
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from error
