"""The jobs of a reproduction: commands of our own, and which needs which. No process is started here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from videoreasoner.fingerprint import hash_data
from videoreasoner.reproduction.jobs import Job
from videoreasoner.reproduction.recipe import Arm, FilmSet, Kind, Mode, Reproduction
from videoreasoner.training.recipe import FREE_FIELDS

# Rough, in minutes; they decide the order of work alone.
_A_FILM, _A_QUESTION = 0.0015, 0.003


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
        films = recipe.films
        self._make_films("films-watched", films.watched, films.watched.seed, "held_out")
        for seed in recipe.seeds:
            self._make_films(f"films-cold_start-{seed}", films.cold_start, films.cold_start.seed + seed, "train")
            self._make_films(f"films-queries-{seed}", films.queries, films.queries.seed + seed, "train")
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

    def _make_films(self, name: str, films: FilmSet, seed: int, subset: str) -> None:
        folder = self._films(name)
        options = {**self._asked(films), "seed": seed, "subset": subset}
        arguments = ("synthetic", "make", str(folder), *_flags(options))
        self._add(name, arguments, folder, (), films.films * _A_FILM, options)

    def _train(self, name: str, arm: Arm, kind: Kind, seed: int, model: str, model_job: str | None) -> tuple[str, str]:
        folder = self._out / "models" / f"{name}-{seed}"
        films_job = f"films-{arm.rows}-{seed}"
        films, watched = self._films(films_job), self._films("films-watched")
        fixed: dict[str, Any] = {
            "model_name_or_path": model,
            "output_dir": str(folder),
            "data": [{"path": str(films / f"{split}.jsonl")} for split in getattr(self.recipe.films, arm.rows).splits],
            "video_root": str(films),
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
        after = (films_job, "films-watched", *([model_job] if model_job else []))
        job = self._add(f"train-{name}-{seed}", arguments, folder, after, arm.minutes, content)
        self.trained[name, seed] = folder
        return str(folder), job.name

    def _evaluate(self, name: str, seed: int | None, mode: Mode, model: str, model_job: str | None) -> None:
        label = f"{name}-{mode}" if seed is None else f"{name}-{seed}-{mode}"
        folder = self._out / "runs" / label
        films = self.recipe.films.evaluation
        options = {"model": model, "mode": mode, **self._asked(films), "seed": films.seed}
        places = {"films-dir": str(self._films("films-evaluation")), "out": str(folder)}
        arguments = ("eval", "synthetic", *_flags({**options, **places}))
        # The first evaluation makes the films for all.
        first = [job for job in self.jobs if job.startswith("eval-")][:1]
        after = (*([model_job] if model_job else []), *first)
        self._add(f"eval-{label}", arguments, folder, after, films.rows * _A_QUESTION, options)
        self.runs[name, seed, mode] = folder

    def _asked(self, films: FilmSet) -> dict[str, Any]:
        names = ("films", "questions", "events", "event_share")
        return {**{name: getattr(films, name) for name in names}, "size": self.recipe.films.size}

    def _films(self, name: str) -> Path:
        return self._out / "films" / name.removeprefix("films-")

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
