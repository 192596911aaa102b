"""The recipe of a reproduction: what is run and which claims are tested, fixed in a YAML file before anything runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from videoreasoner.benchmarks.tasks.synthetic import FIRST_HELD_OUT_SEED
from videoreasoner.errors import SettingError
from videoreasoner.synthetic.world import WorldSettings
from videoreasoner.training.recipe import load_recipe

Positive = Annotated[int, Field(ge=1)]
Kind = Literal["cold-start", "grpo"]
Mode = Literal["direct", "focus", "think"]
VideoSplit = Literal["plain", "detail"]
Split = Literal["plain", "detail", "all"]
Metric = Literal[
    "answer", "answer_written", "answer_parsed", "event_iou", "event_r@0.5", "event_parsed", "keyframes_in_event",
    "evidence_seen", "seconds", "tokens_out",
]  # fmt: skip
FOCUS_METRICS = ("event_iou", "event_r@0.5", "event_parsed", "keyframes_in_event")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class VideoSet(_Strict):
    """Synthetic videos with questions about them."""

    videos: Positive = Field(description="number of videos")
    questions: Positive = Field(1, description="questions for each video and split")
    splits: list[VideoSplit] = Field(["plain", "detail"], min_length=1, description="splits to train on")
    events: tuple[int, int] = Field((1, 3), description="fewest and most events in a video")
    event_share: tuple[float, float] = Field((0.12, 0.35), description="shortest and longest event, share of the video")
    seed: int = Field(ge=0, description="seed of the videos; a training run with seed n uses seed + n")

    @property
    def rows(self) -> int:
        return len(self.splits) * self.videos * self.questions

    @property
    def world(self) -> WorldSettings:
        return WorldSettings(self.events, self.event_share)


class VideoSets(_Strict):
    """All videos of a reproduction. No two sets share a seed; evaluation uses a seed of the held-out range."""

    size: Positive = Field(description="width and height in pixels")
    cold_start: VideoSet = Field(description="rows of the cold starts")
    queries: VideoSet = Field(description="queries of GRPO, and rows of its supervised control")
    watched: VideoSet = Field(description="held-out videos that cold starts sample outputs for")
    evaluation: VideoSet = Field(description="the benchmark on which variants are compared")


class Training(_Strict):
    """A recipe of `videoreasoner train` and the changes to it."""

    recipe: str = Field(description="path of the recipe, relative to the working directory")
    changes: dict[str, Any] = Field(default_factory=dict, description="recipe key -> value")


class Variant(_Strict):
    """A model that is compared: a given checkpoint, or one that is trained from another variant."""

    title: str = Field(description="name on the page")
    model: str | None = Field(None, description="a checkpoint that is used as it is")
    start: str | None = Field(None, description="an earlier variant; training starts from its model of the same seed")
    train: Kind | None = Field(None, description="kind of training")
    rows: Literal["cold_start", "queries"] = Field("queries", description="videos to train on")
    changes: dict[str, Any] = Field(default_factory=dict, description="recipe key -> value, for this training")
    modes: list[Mode] = Field(description="modes in which the variant is evaluated")


class Test(_Strict):
    """An inequality. It holds if the 95 % interval of variant - other lies above -margin."""

    # pytest must not collect this class.
    __test__ = False

    variant: str
    mode: Mode
    metric: Metric
    split: Split = "all"
    over: str | None = Field(None, description="the other variant")
    over_mode: Mode | None = Field(None, description="mode of the other variant; the default is the same mode")
    value: float | None = Field(None, description="a fixed value instead of another variant")
    margin: float = Field(0.0, ge=0, description="a loss up to this size still counts as no worse")

    @property
    def other_mode(self) -> Mode:
        return self.over_mode or self.mode


class Claim(_Strict):
    """A sentence, and the tests that must all hold for it."""

    text: str
    tests: list[Test] = Field(min_length=1)


class Reproduction(_Strict):
    """The whole recipe."""

    out_dir: str = Field(description="folder for videos, models and runs; not committed")
    smoke: bool = Field(False, description="too few videos and steps for verdicts: only checks that everything runs")
    results_dir: str = Field(description="folder for result files and plots; the page is written to results_dir + .md")
    seeds: list[int] = Field(min_length=1, description="training seeds; --seeds N takes the first N")
    videos: VideoSets
    training: dict[Kind, Training]
    variants: dict[str, Variant]
    claims: dict[str, Claim]

    def seeds_of(self, variant: str) -> list[int | None]:
        """The seeds of a variant; [None] if it is not trained."""
        return [None] if self.variants[variant].train is None else [*self.seeds]

    @model_validator(mode="after")
    def _makes_sense(self) -> Reproduction:
        for problem in (*self._seed_problems(), *self._variant_problems(), *self._claim_problems()):
            raise ValueError(problem)
        return self

    def _seed_problems(self) -> Iterator[str]:
        videos = self.videos
        used = [v.seed + seed for v in (videos.cold_start, videos.queries) for seed in self.seeds] + [
            videos.watched.seed
        ]
        if len(set(self.seeds)) < len(self.seeds):
            yield "seeds: one is there twice"
        elif len(set(used)) < len(used):
            yield "videos: two of the sets cold_start, queries and watched share a seed; choose seeds further apart"
        if max(used) >= FIRST_HELD_OUT_SEED or videos.evaluation.seed < FIRST_HELD_OUT_SEED:
            yield f"videos: seeds of {FIRST_HELD_OUT_SEED} and above are for evaluation only; choose other seeds"
        for name in ("evaluation", "watched"):
            if getattr(videos, name).splits != ["plain", "detail"]:
                yield f"videos.{name}: always has both splits; remove splits"

    def _variant_problems(self) -> Iterator[str]:
        earlier: set[str] = set()
        for name, variant in self.variants.items():
            if (variant.model is None) == (variant.start is None):
                yield f"variants.{name}: give either model or start"
            if (variant.start is None) != (variant.train is None):
                yield f"variants.{name}: start and train must be given together"
            if variant.start is not None and variant.start not in earlier:
                yield f"variants.{name}: start {variant.start!r} is not an earlier variant"
            if variant.train is not None and variant.train not in self.training:
                yield f"variants.{name}: train {variant.train!r} is not a key of training"
            earlier.add(name)

    def _claim_problems(self) -> Iterator[str]:
        for name, test in ((name, test) for name, claim in self.claims.items() for test in claim.tests):
            if (test.over is None) == (test.value is None):
                yield f"claims.{name}: give either over or value"
            sides = [(test.variant, test.mode)] + ([(test.over, test.other_mode)] if test.over else [])
            for variant, mode in sides:
                if variant not in self.variants or mode not in self.variants[variant].modes:
                    yield f"claims.{name}: no variant {variant!r} is evaluated in mode {mode!r}"
                if test.metric in FOCUS_METRICS and mode != "focus":
                    yield f"claims.{name}: {test.metric} is only measured in mode focus"


def load_reproduction(path: Path, overrides: Sequence[str] = (), seeds: int | None = None) -> Reproduction:
    """Read a recipe. `base` and `key=value` overrides work as in recipes of `videoreasoner train`.

    Args:
        path: the YAML file.
        overrides: applied in order.
        seeds: use only the first N seeds; the default is all.

    Raises:
        SettingError: the file cannot be read, a key is unknown, a value makes no sense, or it has fewer seeds.
    """
    recipe = load_recipe(path, Reproduction, overrides)
    if seeds is None:
        return recipe
    if not 1 <= seeds <= len(recipe.seeds):
        raise SettingError(f"--seeds {seeds}: {path} has {len(recipe.seeds)}; give 1 to {len(recipe.seeds)}")
    return recipe.model_copy(update={"seeds": recipe.seeds[:seeds]})
