"""The jobs of a reproduction: commands of our own, and which needs which. No process is started here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from experiments.reproduction.jobs import Job
from experiments.reproduction.recipe import Arm, Kind, Mode, Reproduction, VideoSet
from videoreasoner.training.recipe import FREE_FIELDS
from videoreasoner.utils.hashing import hash_data

# Rough, in minutes; they decide the order of work alone.
_A_VIDEO, _A_QUESTION = 0.0015, 0.003


class Plan:
    """All jobs of a recipe, each behind those that it needs.

    Attributes:
        jobs: name -> job.
        trained: (arm, seed) -> folder of its training.
        runs: (arm, seed, mode) -> folder of its evaluation. An arm that is not trained has one seed, None.

    Raises:
        SettingError: the recipe of a training cannot be read, or a change in it makes no sense.
    """

    def __init__(self, recipe: Reproduction) -> None:
        self.recipe = recipe
        self.jobs: dict[str, Job] = {}
        self.trained: dict[tuple[str, int], Path] = {}
        self.runs: dict[tuple[str, int | None, Mode], Path] = {}
        self._out = Path(recipe.out_dir)
        videos = recipe.videos
        self._make_videos("videos-watched", videos.watched, videos.watched.seed, "held_out")
        for seed in recipe.seeds:
            self._make_videos(f"videos-cold_start-{seed}", videos.cold_start, videos.cold_start.seed + seed, "train")
            self._make_videos(f"videos-queries-{seed}", videos.queries, videos.queries.seed + seed, "train")
        self._add_arms()

    def _add_arms(self) -> None:
        models: dict[tuple[str, int | None], tuple[str, str | None]] = {}
        for name, arm in self.recipe.arms.items():
            for seed in (None,) if arm.train is None else self.recipe.seeds:
                if arm.train is None or seed is None:
                    models[name, None] = (str(arm.model), None)
                else:
                    start = models.get((str(arm.start), seed)) or models[str(arm.start), None]
                    models[name, seed] = self._train(name, arm, arm.train, seed, *start)
                for mode in arm.modes:
                    self._evaluate(name, seed, mode, *models[name, seed])

    def _make_videos(self, name: str, videos: VideoSet, seed: int, subset: str) -> None:
        folder = self._videos(name)
        options = {**self._asked(videos), "seed": seed, "subset": subset}
        arguments = ("synthetic", "make", str(folder), *_flags(options))
        self._add(name, arguments, folder, (), videos.videos * _A_VIDEO, options)

    def _train(self, name: str, arm: Arm, kind: Kind, seed: int, model: str, model_job: str | None) -> tuple[str, str]:
        folder = self._out / "models" / f"{name}-{seed}"
        videos_job = f"videos-{arm.rows}-{seed}"
        videos, watched = self._videos(videos_job), self._videos("videos-watched")
        fixed: dict[str, Any] = {
            "model_name_or_path": model,
            "output_dir": str(folder),
            "data": [
                {"path": str(videos / f"{split}.jsonl")} for split in getattr(self.recipe.videos, arm.rows).splits
            ],
            "video_root": str(videos),
            # Sampled rollouts say the same of GRPO, step by step.
            "eval_data": [{"path": str(watched / "plain.jsonl"), "video_root": str(watched)}] if kind != "grpo" else [],
            "frame_cache_dir": str(self._out / "frames"),
            "seed": seed,
        }
        changes = {**self.recipe.training[kind].changes, **arm.changes, **fixed}
        overrides = [f"{key}={json.dumps(value)}" for key, value in changes.items()]
        recipe = self.recipe.training_recipe(kind, overrides)
        # Of the fields that a run may change on its way, the rows of a step decide what is learned all the same.
        step_rows = recipe.per_device_train_batch_size * recipe.gradient_accumulation_steps
        content = [recipe.model_dump(mode="json", exclude=set(FREE_FIELDS)), step_rows]
        sets = [word for override in overrides for word in ("--set", override)]
        arguments = ("train", kind, self.recipe.training[kind].recipe, *sets)
        after = (videos_job, "videos-watched", *([model_job] if model_job else []))
        job = self._add(f"train-{name}-{seed}", arguments, folder, after, arm.minutes, content)
        self.trained[name, seed] = folder
        return str(folder), job.name

    def _evaluate(self, name: str, seed: int | None, mode: Mode, model: str, model_job: str | None) -> None:
        label = f"{name}-{mode}" if seed is None else f"{name}-{seed}-{mode}"
        folder = self._out / "runs" / label
        videos = self.recipe.videos.evaluation
        options = {"model": model, "mode": mode, **self._asked(videos), "seed": videos.seed}
        places = {"videos-dir": str(self._videos("videos-evaluation")), "out": str(folder)}
        arguments = ("eval", "synthetic", *_flags({**options, **places}))
        # The first evaluation makes the videos for all.
        first = [job for job in self.jobs if job.startswith("eval-")][:1]
        after = (*([model_job] if model_job else []), *first)
        self._add(f"eval-{label}", arguments, folder, after, videos.rows * _A_QUESTION, options)
        self.runs[name, seed, mode] = folder

    def _asked(self, videos: VideoSet) -> dict[str, Any]:
        names = ("videos", "questions", "events", "event_share")
        return {**{name: getattr(videos, name) for name in names}, "size": self.recipe.videos.size}

    def _videos(self, name: str) -> Path:
        return self._out / "videos" / name.removeprefix("videos-")

    def _add(
        self, name: str, arguments: tuple[str, ...], folder: Path, after: tuple[str, ...], minutes: float, content: Any
    ) -> Job:
        identity = hash_data([content, [self.jobs[other].identity for other in after]])
        self.jobs[name] = Job(name, arguments, folder, after, minutes, identity)
        return self.jobs[name]


def _flags(options: dict[str, Any]) -> list[str]:
    words: list[str] = []
    for name, value in options.items():
        words += [f"--{name.replace('_', '-')}", *map(str, value if isinstance(value, tuple) else (value,))]
    return words
