"""The output folder of a run: whose it is, where it goes on, and files in it that are whole or not there.

run.json                what the run is; a start with another recipe or other data is refused
checkpoint-100/ ...     a Hugging Face folder each, with optimizer, schedule and random state
metrics.jsonl           one line a logged step
skipped.jsonl           rows that could not be used, each once, with the reason
samples.jsonl           sampled outputs for the held-out rows
rollouts.jsonl          GRPO: the best and worst completions of each step
config.json, ...        the final model
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from videoreasoner.errors import TrainingError
from videoreasoner.training.data.sources import Skipped, skipped_lines
from videoreasoner.training.recipe import FREE_FIELDS, Recipe
from videoreasoner.utils.files import replacing

_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
_RUN_FILE = "run.json"
_LOGS = ("metrics.jsonl", "skipped.jsonl", "samples.jsonl", "rollouts.jsonl")


class RunFolder:
    """One run's folder. Only the main process writes; `check` and `last_checkpoint` only read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def staging(self) -> Path:
        """Where a checkpoint is written before it gets its name. Its dot keeps it from being taken for one."""
        return self.path / ".saving"

    def check(self, identity: dict[str, Any]) -> None:
        """Refuse to go on with another run.

        Raises:
            TrainingError: the folder holds a run of another recipe, or on other data.
        """
        path = self.path / _RUN_FILE
        if not path.is_file():
            if self.checkpoints() or (self.path / "config.json").is_file():
                raise TrainingError(f"{self.path}: holds a model, and no run of ours; give another output_dir")
            return
        try:
            there = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise TrainingError(f"{path}: not JSON ({error}); give another output_dir, or --overwrite") from error
        # What is free today may have been written by an earlier version.
        free = {f"recipe.{name}" for name in FREE_FIELDS}
        differing = sorted({name for name, _ in _flat(there).items() ^ _flat(identity).items()} - free)
        if differing:
            names = ", ".join(differing)
            raise TrainingError(
                f"{self.path}: holds a run that differs in {names}; give another output_dir, "
                "or --overwrite to begin anew"
            )

    def claim(self, identity: dict[str, Any], overwrite: bool) -> None:
        """Make the folder, which is there, this run's; with `overwrite`, after removing what another run left.

        Raises:
            TrainingError: the folder cannot be written.
        """
        try:
            if overwrite:
                self._clear()
            shutil.rmtree(self.staging, ignore_errors=True)
            with replacing(self.path / _RUN_FILE) as temporary:
                temporary.write_text(json.dumps(identity, indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise _not_writable(self.path, error) from error

    def checkpoints(self) -> list[Path]:
        """Complete checkpoints, oldest first. They are renamed into place, so what has the name is complete."""
        if not self.path.is_dir():
            return []
        found = [(int(m[1]), p) for p in self.path.iterdir() if (m := _CHECKPOINT.fullmatch(p.name)) and p.is_dir()]
        return [path for _, path in sorted(found)]

    def last_checkpoint(self) -> Path | None:
        return max(self.checkpoints(), key=_step, default=None)

    def publish(self, staged: Path, keep: int) -> Path:
        """Give a staged checkpoint its place, and remove the oldest beyond `keep`. It survives a power cut.

        Raises:
            OSError: the disk is full, or the folder cannot be written.
        """
        sync_tree(staged)
        final = self.path / staged.name
        shutil.rmtree(final, ignore_errors=True)
        os.rename(staged, final)
        _sync(self.path)
        shutil.rmtree(self.staging, ignore_errors=True)
        for old in self.checkpoints()[:-keep]:
            shutil.rmtree(old)
        return final

    def publish_model(self, staged: Path) -> None:
        """Move the files of the final model to the top of the folder.

        Raises:
            OSError: the folder cannot be written.
        """
        sync_tree(staged)
        # The configuration last: a folder without one is no checkpoint, so nobody loads half of one.
        (self.path / "config.json").unlink(missing_ok=True)
        for source in sorted(staged.iterdir(), key=lambda path: path.name == "config.json"):
            target = self.path / source.name
            if target.is_dir():
                shutil.rmtree(target)
            os.replace(source, target)
        _sync(self.path)
        shutil.rmtree(staged, ignore_errors=True)

    def make(self) -> None:
        """Have the folder there.

        Raises:
            TrainingError: it cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _not_writable(self.path, error) from error
        if not os.access(self.path, os.W_OK):
            raise _not_writable(self.path, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))

    def rewind(self, step: int) -> None:
        """Drop the lines of steps that will be done again."""
        for name in ("metrics.jsonl", "samples.jsonl", "rollouts.jsonl"):
            path = self.path / name
            if path.is_file():
                lines = [line for line in path.read_text(encoding="utf-8").splitlines() if _line_step(line) <= step]
                with replacing(path) as temporary:
                    temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")

    def append(self, name: str, *records: dict[str, Any]) -> None:
        """Add lines to one of the logs."""
        with (self.path / name).open("a", encoding="utf-8") as file:
            # In ASCII: texts may hold half characters, which have no UTF-8, and what `splitlines` takes for line ends.
            file.write("".join(json.dumps(record, default=_plain) + "\n" for record in records))

    def write_skipped(self, skipped: Sequence[Skipped]) -> None:
        with replacing(self.path / "skipped.jsonl") as temporary:
            temporary.write_text(skipped_lines(skipped), encoding="utf-8")

    def read_skipped(self) -> list[Skipped]:
        path = self.path / "skipped.jsonl"
        if not path.is_file():
            return []
        return [Skipped(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]

    def clears(self, path: Path) -> bool:
        """Whether `claim` with `overwrite` removes the model in a folder."""
        removed = (self.path, self.path / "adapter", *self.checkpoints())
        return path.exists() and path.resolve() in {place.resolve() for place in removed}

    def _clear(self) -> None:
        """Remove what a run writes, and nothing else."""
        for path in (*self.checkpoints(), self.staging, self.path / "adapter"):
            shutil.rmtree(path, ignore_errors=True)
        kept = ("*.safetensors", "*.json", "*.jinja", "README.md", *_LOGS)
        for pattern in kept if (self.path / _RUN_FILE).is_file() else ():
            for path in self.path.glob(pattern):
                path.unlink()


def run_identity(recipe: Recipe, digests: dict[str, str], step_rows: int) -> dict[str, Any]:
    """What makes a run this run: the recipe without what may change between two starts, and the data's content.

    Of devices, batch and accumulation only the product counts: a run may go on with other devices.
    """
    content = recipe.model_dump(mode="json", exclude=set(FREE_FIELDS))
    return {"kind": type(recipe).__name__, "recipe": content, "data": digests, "rows_a_step": step_rows}


def _not_writable(path: Path, error: OSError) -> TrainingError:
    return TrainingError(
        f"output_dir {path}: cannot be written ({error.strerror or error}); choose a folder that can be"
    )


def sync_tree(folder: Path) -> None:
    """Have a folder and all that is in it written to the disk."""
    for path in sorted(folder.rglob("*"), reverse=True):
        _sync(path)
    _sync(folder)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _step(path: Path) -> int:
    return int(path.name.rpartition("-")[2])


def _plain(value: Any) -> Any:
    """What JSON does not know: scalars of numpy and torch as numbers, all else in words."""
    return value.item() if getattr(value, "ndim", None) == 0 else str(value)


def _line_step(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except ValueError:
        # The last line of a killed run may be half written.
        return float("inf")


def _flat(content: Any, name: str = "") -> dict[str, str]:
    if isinstance(content, dict):
        return {key: value for k, v in content.items() for key, value in _flat(v, f"{name}.{k}".lstrip(".")).items()}
    return {name: json.dumps(content)}
