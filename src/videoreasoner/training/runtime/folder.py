"""The output folder of a run. A checkpoint or model in it is complete or does not exist.

run.json                recipe and data of the run; a start with others is refused
checkpoint-100/ ...     Hugging Face folders, with optimizer, schedule and random state
.lock                   there while a run trains; names its process
metrics.jsonl           one line per logged step
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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from videoreasoner.errors import SettingError, TrainingError
from videoreasoner.training.data.sources import Skipped, skipped_lines
from videoreasoner.training.runtime.identity import differences
from videoreasoner.utils.files import locked, replacing, sync, sync_tree

_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
_RUN_FILE = "run.json"
_LOCK_FILE = ".lock"
_FULL = "the disk is full"
_FULL_CODES = (errno.ENOSPC, errno.EDQUOT)
_DISK_CODES = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.EFBIG, errno.ESTALE)
_LOGS = ("metrics.jsonl", "skipped.jsonl", "samples.jsonl", "rollouts.jsonl")


@dataclass(frozen=True)
class ResumePoint:
    """Where a run resumes.

    Attributes:
        checkpoint: the folder to load; None: begin with the initial weights.
        step: finished optimizer steps.
        own_step: the step up to which the lines of the run's own logs are kept; -1: none are.
        skipped: rows that the run set aside up to that step.
    """

    checkpoint: Path | None = None
    step: int = 0
    own_step: int = -1
    skipped: list[Skipped] = field(default_factory=list)


class RunFolder:
    """The output folder of one run. Only the main process calls the methods that write."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def staging(self) -> Path:
        """Where a checkpoint is written before it is moved to its final name."""
        return self.path / ".saving"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep every other run out of the folder while the block runs. A killed run keeps no one out.

        Raises:
            TrainingError: another run is in the folder, or it cannot be written.
        """
        with ExitStack() as stack:
            try:
                stack.enter_context(locked(self.path / _LOCK_FILE, self._in_use))
            except OSError as error:
                raise _not_writable(self.path, error) from error
            yield

    def _in_use(self, holder: str) -> TrainingError:
        return TrainingError(
            f"output_dir {self.path}: another run ({holder}) is training there; wait until it has ended, or give "
            "another output_dir"
        )

    def check(self, identity: dict[str, Any]) -> None:
        """Refuse to resume another run.

        Raises:
            TrainingError: the folder holds a run of another recipe, or on other data.
        """
        path = self.path / _RUN_FILE
        if not path.is_file():
            if self.checkpoints() or (self.path / "config.json").is_file():
                raise TrainingError(f"{self.path}: holds a model but no run.json; give another output_dir")
            return
        try:
            there = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise TrainingError(f"{path}: not JSON ({error}); give another output_dir, or --overwrite") from error
        if not isinstance(there, dict):
            raise TrainingError(f"{path}: not the record of a run; give another output_dir, or --overwrite")
        names = ", ".join(differences(there, identity))
        if names:
            last = self.last_checkpoint()
            onward = f" (resume_from_checkpoint={last} goes on from this one)" if last else ""
            raise TrainingError(
                f"{self.path}: holds a run that differs in {names}; give another output_dir{onward}, or --overwrite to "
                "start from the beginning"
            )

    def prepare(self, identity: dict[str, Any], overwrite: bool, begins_from: Mapping[str, str | None]) -> None:
        """Make the folder if it does not exist, and find out whether the run may use it. Nothing is written.

        Args:
            overwrite: the files of another run may be removed.
            begins_from: name of the setting -> model or checkpoint that the run needs.

        Raises:
            SettingError: `overwrite` would remove what the run begins from.
            TrainingError: the folder cannot be written, or it holds another run and `overwrite` is off.
        """
        if overwrite:
            for name, value in begins_from.items():
                if value and self.clears(Path(value)):
                    raise SettingError(
                        f"{name} {value}: lies in output_dir, and --overwrite would remove it; give another output_dir"
                    )
        else:
            self.check(identity)
        self.make()

    def resume_point(
        self, given: str | None, overwrite: bool, max_steps: int, steps_per_rollout: int = 1
    ) -> ResumePoint:
        """Where the run resumes.

        In this order:
        1. the run's own last checkpoint: the same command resumes where it stopped;
        2. `given`: a checkpoint of another folder, with its optimizer and its position in the data;
        3. the initial weights.

        Raises:
            TrainingError: the given checkpoint holds no state of a run, leaves no step to take, or lies between two
                updates on the same rows.
        """
        own = None if overwrite else self.last_checkpoint()
        if own is not None:
            step = _step(own)
            _check_between(own, step, steps_per_rollout)
            # Skips found before the run will be found again; keep those of the run up to the step where it resumes.
            return ResumePoint(own, step, step, [item for item in self.read_skipped() if 0 < item.step <= step])
        if given is None:
            return ResumePoint()
        step = _given_step(Path(given), max_steps)
        _check_between(Path(given), step, steps_per_rollout)
        return ResumePoint(Path(given), step)

    def begin(self, identity: dict[str, Any], overwrite: bool, resume: ResumePoint, skipped: Sequence[Skipped]) -> None:
        """Claim the folder for the run, and bring its files to the state of the step where the run resumes.

        Args:
            overwrite: first remove the files of another run.

        Raises:
            TrainingError: the folder cannot be written, or another run has worked in it since `resume` was found.
        """
        if not overwrite:
            self.check(identity)
            if self.last_checkpoint() != (resume.checkpoint if resume.own_step >= 0 else None):
                raise TrainingError(
                    f"output_dir {self.path}: another start of this run went on meanwhile; start the same command again"
                )
        try:
            if overwrite:
                self._clear()
            shutil.rmtree(self.staging, ignore_errors=True)
            with replacing(self.path / _RUN_FILE) as temporary:
                temporary.write_text(json.dumps(identity, indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise _not_writable(self.path, error) from error
        self._rewind(resume.own_step)
        self.write_skipped(skipped)

    def checkpoints(self) -> list[Path]:
        """Complete checkpoints, oldest first. They are renamed when they are complete, so the name is enough."""
        if not self.path.is_dir():
            return []
        found = [(int(m[1]), p) for p in self.path.iterdir() if (m := _CHECKPOINT.fullmatch(p.name)) and p.is_dir()]
        return [path for _, path in sorted(found)]

    def last_checkpoint(self) -> Path | None:
        return max(self.checkpoints(), key=_step, default=None)

    def publish(self, staged: Path, keep: int) -> Path:
        """Move a staged checkpoint to its final name, and remove the oldest checkpoints beyond `keep`.

        The checkpoint is on the disk before it has its name, so it survives a power cut.

        Raises:
            OSError: the disk is full, or the folder cannot be written.
        """
        sync_tree(staged)
        final = self.path / staged.name
        shutil.rmtree(final, ignore_errors=True)
        os.rename(staged, final)
        sync(self.path)
        shutil.rmtree(self.staging, ignore_errors=True)
        for old in self.checkpoints()[:-keep]:
            shutil.rmtree(old)
        return final

    def publish_model(self, staged: Path) -> list[str]:
        """Move the files of the final model to the top of the folder.

        Returns:
            Their names, relative to the folder.

        Raises:
            OSError: the folder cannot be written.
        """
        sync_tree(staged)
        names = sorted(path.relative_to(staged).as_posix() for path in staged.rglob("*") if path.is_file())
        # The configuration comes last: without it the folder is no checkpoint, so an incomplete model cannot be loaded.
        (self.path / "config.json").unlink(missing_ok=True)
        for source in sorted(staged.iterdir(), key=lambda path: path.name == "config.json"):
            target = self.path / source.name
            if target.is_dir():
                shutil.rmtree(target)
            os.replace(source, target)
        sync(self.path)
        shutil.rmtree(staged, ignore_errors=True)
        return names

    @contextmanager
    def saving(self, what: str, removes_staging: bool = True) -> Iterator[None]:
        """Report a disk that fails while the block writes into the folder. Any other error passes through unchanged.

        Args:
            what: is being saved; the message begins with it.
            removes_staging: when the disk fails, remove what is not complete, to free its room.

        Raises:
            TrainingError: the disk is full, or the folder cannot be written.
        """
        try:
            yield
        except (OSError, SafetensorError, RuntimeError) as error:
            reason = _disk_failure(error, self.path)
            if reason is None:
                raise
            if removes_staging:
                shutil.rmtree(self.staging, ignore_errors=True)
            last = self.last_checkpoint()
            complete = f"{last} is complete" if last else "there is no checkpoint yet"
            remedy = "Free some room" if reason == _FULL else "Check the folder and its disk"
            raise TrainingError(
                f"{what} cannot be saved ({reason}); {complete}. {remedy}, and start the same command again"
            ) from error

    def make(self) -> None:
        """Make the folder if it does not exist.

        Raises:
            TrainingError: it cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _not_writable(self.path, error) from error
        if not os.access(self.path, os.W_OK):
            raise _not_writable(self.path, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))

    def _rewind(self, step: int) -> None:
        """Remove the lines of steps after `step` from the logs, because these steps will be repeated."""
        for name in ("metrics.jsonl", "samples.jsonl", "rollouts.jsonl"):
            path = self.path / name
            if path.is_file():
                lines = [line for line in path.read_text(encoding="utf-8").splitlines() if _line_step(line) <= step]
                with replacing(path) as temporary:
                    temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")

    def append(self, name: str, *records: dict[str, Any]) -> None:
        """Add lines to one of the logs.

        Raises:
            TrainingError: the disk is full, or the folder cannot be written.
        """
        path = self.path / name
        with self.saving(str(path), removes_staging=False), path.open("a", encoding="utf-8") as file:
            # In ASCII, because texts may hold surrogates, which have no UTF-8, and line ends of `str.splitlines`.
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
        """Remove the files that a run writes, and no others."""
        for path in (*self.checkpoints(), self.staging, self.path / "adapter"):
            shutil.rmtree(path, ignore_errors=True)
        kept = ("*.safetensors", "*.json", "*.jinja", "README.md", *_LOGS)
        for pattern in kept if (self.path / _RUN_FILE).is_file() else ():
            for path in self.path.glob(pattern):
                path.unlink()


def _not_writable(path: Path, error: OSError) -> TrainingError:
    return TrainingError(
        f"output_dir {path}: cannot be written ({error.strerror or error}); choose a folder that can be"
    )


def _disk_failure(error: Exception, folder: Path) -> str | None:
    """How the disk failed, in one line; None for an error that has another cause.

    safetensors reports a failed write by an error of its own, and torch by a RuntimeError that does not say why.
    """
    text = " ".join(str(error).split())[:300]
    if not folder.is_dir():
        return "the folder is gone"
    code = error.errno if isinstance(error, OSError) else None
    if code in _FULL_CODES or "No space left" in text or shutil.disk_usage(folder).free < 2**20:
        return _FULL
    is_torch = isinstance(error, RuntimeError) and re.search("PytorchStreamWriter|inline_container", text)
    return text if code in _DISK_CODES or isinstance(error, SafetensorError) or is_torch else None


def _check_between(checkpoint: Path, step: int, steps_per_rollout: int) -> None:
    if step % steps_per_rollout:
        raise TrainingError(
            f"{checkpoint}: is between two of the {steps_per_rollout} updates on a batch (num_iterations); "
            "give a checkpoint whose step is a multiple of it"
        )


def _given_step(checkpoint: Path, max_steps: int) -> int:
    state = checkpoint / "trainer_state.json"
    if not state.is_file():
        raise TrainingError(
            f"resume_from_checkpoint {checkpoint}: holds no trainer_state.json; give a checkpoint-N folder of a run, "
            "or use the folder as model_name_or_path to begin from its weights"
        )
    step = int(json.loads(state.read_text(encoding="utf-8"))["global_step"])
    if step >= max_steps:
        raise TrainingError(
            f"resume_from_checkpoint {checkpoint}: stands at step {step}, and this run ends at step {max_steps}; raise "
            "max_steps, or use the folder as model_name_or_path to begin from its weights"
        )
    return step


def _step(path: Path) -> int:
    return int(path.name.rpartition("-")[2])


def _plain(value: Any) -> Any:
    """A value that JSON does not know: scalars of numpy and torch as numbers, others as text."""
    return value.item() if getattr(value, "ndim", None) == 0 else str(value)


def _line_step(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except ValueError:
        # A killed run may leave half a line at the end.
        return float("inf")
