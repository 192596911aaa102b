"""What `reproduce` runs and what has to come out of it, as one YAML file that is fixed before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from videoreasoner.benchmarks.tasks.synthetic import FIRST_HELD_OUT_SEED
from videoreasoner.errors import SettingError
from videoreasoner.synthetic.world import WorldSettings
from videoreasoner.training.grpo.recipe import GrpoRecipe
from videoreasoner.training.recipe import ColdStartRecipe, Recipe, load_recipe

Positive = Annotated[int, Field(ge=1)]
Kind = Literal["cold-start", "grpo"]
Mode = Literal["direct", "focus", "think"]
VideoSplit = Literal["plain", "detail"]
Split = Literal["plain", "detail", "all"]
Metric = Literal[
    "answer", "answer_written", "answer_parsed", "event_iou", "event_r@0.5", "event_parsed", "keyframes_in_event",
    "evidence_seen", "seconds", "tokens_out",
]  # fmt: skip

# Only who locates has these.
_LOCATED = ("event_iou", "event_r@0.5", "event_parsed", "keyframes_in_event")

KINDS: dict[str, type[Recipe]] = {"cold-start": ColdStartRecipe, "grpo": GrpoRecipe}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class VideoSet(_Strict):
    """Videos with questions about them."""

    videos: Positive = Field(description="how many")
    questions: Positive = Field(1, description="about each video, of each split")
    splits: list[VideoSplit] = Field(["plain", "detail"], min_length=1, description="what is asked about them")
    events: tuple[int, int] = Field((1, 3), description="fewest and most events of a video")
    event_share: tuple[float, float] = Field((0.12, 0.35), description="shortest and longest event, share of the video")
    seed: int = Field(ge=0, description="of the videos; training videos of run n have seed + n")

    @property
    def rows(self) -> int:
        return len(self.splits) * self.videos * self.questions

    @property
    def world(self) -> WorldSettings:
        return WorldSettings(self.events, self.event_share)


class Videos(_Strict):
    """All videos. No two sets share a seed, and those that are evaluated on come from the held-out range."""

    size: Positive = Field(description="width and height in pixels")
    cold_start: VideoSet = Field(description="rows of the cold starts")
    queries: VideoSet = Field(description="queries of GRPO, and rows of the SFT that is its control")
    watched: VideoSet = Field(description="held-out combinations that cold starts sample outputs for")
    evaluation: VideoSet = Field(description="what arms are compared on")


class Training(_Strict):
    """A recipe of `videoreasoner train`, and what is changed in it."""

    recipe: str = Field(description="a file, from the working directory")
    changes: dict[str, Any] = Field(default_factory=dict, description="keys of that recipe and their values")


class Arm(_Strict):
    """One model to be compared: trained from another arm, or given."""

    title: str = Field(description="what the page calls it")
    model: str | None = Field(None, description="a checkpoint that is taken as it is")
    start: str | None = Field(None, description="the arm, further up, whose model of the same seed is trained on")
    train: Kind | None = Field(None, description="how")
    rows: Literal["cold_start", "queries"] = Field("queries", description="on which videos")
    changes: dict[str, Any] = Field(default_factory=dict, description="in the recipe of that training")
    modes: list[Mode] = Field(description="how it is evaluated")
    minutes: float = Field(0.0, ge=0, description="of training on one core; decides the order of work alone")

    @model_validator(mode="after")
    def _given_or_trained(self) -> Arm:
        if (self.model is None) == (self.start is None):
            raise ValueError("give either model or start")
        if (self.start is None) != (self.train is None):
            raise ValueError("start and train go together")
        return self


class Test(_Strict):
    """An inequality between an arm and another one, or a value.

    It holds when arm - other is above -margin with the whole 95 % interval.
    """

    # Not for pytest to collect.
    __test__ = False

    arm: str
    mode: Mode
    metric: Metric
    split: Split = "all"
    over: str | None = Field(None, description="the other arm")
    over_mode: Mode | None = Field(None, description="by default the same mode")
    value: float | None = Field(None, description="in place of another arm")
    margin: float = Field(0.0, ge=0, description="how much less still counts as no worse")

    @property
    def other_mode(self) -> Mode:
        return self.over_mode or self.mode

    @model_validator(mode="after")
    def _one_other(self) -> Test:
        if (self.over is None) == (self.value is None):
            raise ValueError("give either over or value")
        modes = {self.mode} if self.over is None else {self.mode, self.other_mode}
        if self.metric in _LOCATED and modes != {"focus"}:
            raise ValueError(f"{self.metric} is there in mode focus alone")
        return self


class Claim(_Strict):
    """A sentence, and the tests that all have to hold for it."""

    text: str
    tests: list[Test] = Field(min_length=1)


class Reproduction(_Strict):
    """The whole recipe."""

    out_dir: str = Field(description="videos, models and runs; not to be committed")
    results_dir: str = Field(description="result files and plots; the page stands beside it, with .md behind its name")
    seeds: list[int] = Field(min_length=1, description="of training; --seeds N takes the first N")
    videos: Videos
    training: dict[Kind, Training]
    arms: dict[str, Arm]
    claims: dict[str, Claim]

    @model_validator(mode="after")
    def _seeds_are_apart(self) -> Reproduction:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds: one is there twice")
        sets = (self.videos.cold_start, self.videos.queries)
        used = [videos.seed + seed for videos in sets for seed in self.seeds] + [self.videos.watched.seed]
        if len(set(used)) < len(used):
            raise ValueError("videos: two sets that are trained on, or watched, share a seed; move them apart")
        if max(used) >= FIRST_HELD_OUT_SEED or self.videos.evaluation.seed < FIRST_HELD_OUT_SEED:
            raise ValueError(
                f"videos: seeds from {FIRST_HELD_OUT_SEED} on are for evaluation, and for nothing else; choose others"
            )
        return self

    @model_validator(mode="after")
    def _all_splits_are_evaluated(self) -> Reproduction:
        for name in ("evaluation", "watched"):
            if getattr(self.videos, name).splits != ["plain", "detail"]:
                raise ValueError(f"videos.{name}: has both splits; take splits out")
        return self

    @model_validator(mode="after")
    def _arms_are_known(self) -> Reproduction:
        above: set[str] = set()
        for name, arm in self.arms.items():
            if arm.start is not None and arm.start not in above:
                raise ValueError(f"arms.{name}: start is {arm.start!r}, which is no arm further up")
            if arm.train is not None and arm.train not in self.training:
                raise ValueError(f"arms.{name}: train is {arm.train!r}, which training does not describe")
            above.add(name)
        for name, claim in self.claims.items():
            for test in claim.tests:
                sides = [(test.arm, test.mode)] + ([(test.over, test.other_mode)] if test.over else [])
                for arm_name, mode in sides:
                    if arm_name not in self.arms or mode not in self.arms[arm_name].modes:
                        raise ValueError(f"claims.{name}: no arm {arm_name!r} is evaluated in mode {mode!r}")
        return self

    def training_recipe(self, kind: Kind, overrides: list[str]) -> Recipe:
        """The recipe of a training as the command will read it.

        Raises:
            SettingError: its file cannot be read, or a change makes no sense.
        """
        return load_recipe(Path(self.training[kind].recipe), KINDS[kind], overrides)


def load_reproduction(path: Path, overrides: list[str] | None = None, seeds: int | None = None) -> Reproduction:
    """Read a recipe; `base` and `key=value` overrides work as in those of `train`.

    Args:
        path: the file.
        overrides: in order.
        seeds: how many of its seeds to run; by default all.

    Raises:
        SettingError: it cannot be read, a key is unknown, a value makes no sense, or it has fewer seeds.
    """
    recipe = load_recipe(path, Reproduction, overrides or ())
    if seeds is None:
        return recipe
    if not 1 <= seeds <= len(recipe.seeds):
        raise SettingError(f"--seeds {seeds}: {path} has {len(recipe.seeds)}; give 1 to {len(recipe.seeds)}")
    return recipe.model_copy(update={"seeds": recipe.seeds[:seeds]})
