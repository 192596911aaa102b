"""Jobs in processes of their own, a few at once. A killed call loses no finished job, and leaves no process behind."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from videoreasoner.errors import SettingError
from videoreasoner.utils.files import locked, replacing
from videoreasoner.utils.processes import end_with_parent

_GRACE_S = 5.0
_LAST_LINES = 12

Command = Callable[[list[str]], None]


@dataclass(frozen=True)
class Job:
    """One command of `videoreasoner`.

    Attributes:
        name: of its log, and in messages.
        arguments: behind `videoreasoner`.
        folder: what it makes.
        after: names of the jobs that have to be done before.
        minutes: roughly, on one core.
        identity: changes with everything that decides what it makes, the jobs before it included.
    """

    name: str
    arguments: tuple[str, ...]
    folder: Path
    after: tuple[str, ...]
    minutes: float
    identity: str


@dataclass(frozen=True)
class Record:
    """What is known of a job: `jobs/<name>.json`.

    Attributes:
        identity: of the job that it is about; another one's folder must not be gone on with.
        command: how to run it by hand.
        starts: how often it was begun. The times are those of the last one.
        began, ended: seconds since 1970; ended is None until the job is done.
        cpu_seconds: of its process and those that it started.
    """

    identity: str
    command: list[str]
    starts: int
    began: float
    ended: float | None = None
    cpu_seconds: float = 0.0

    def write(self, path: Path) -> None:
        with replacing(path) as partial:
            partial.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")


class Ledger:
    """The records and logs of all jobs of a folder."""

    def __init__(self, out: Path) -> None:
        self._records, self._logs = out / "jobs", out / "logs"

    def record_path(self, name: str) -> Path:
        return self._records / f"{name}.json"

    def log(self, name: str) -> Path:
        return self._logs / f"{name}.log"

    def read(self, name: str) -> Record | None:
        """What is known of a job; None before its first start.

        Raises:
            SettingError: the record is not one of ours.
        """
        path = self.record_path(name)
        try:
            return Record(**json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            raise SettingError(f"{path}: no record of a job ({error}); remove it, or give another out_dir") from error

    def done(self, jobs: Collection[Job]) -> set[str]:
        """Names of the jobs that have ended and whose folders are still there."""
        records = {job.name: self.read(job.name) for job in jobs if job.folder.exists()}
        return {name for name, record in records.items() if record is not None and record.ended is not None}

    def clear(self, jobs: Collection[Job], overwrite: bool) -> None:
        """Make sure that no job goes on with what another recipe left.

        Args:
            jobs: those that are to be done.
            overwrite: remove what another recipe left.

        Raises:
            SettingError: it is there and not to be removed, or the folder cannot be written.
        """
        records = {job.name: self.read(job.name) for job in jobs}
        stale = [job for job in jobs if (record := records[job.name]) and record.identity != job.identity]
        if stale and not overwrite:
            raise SettingError(
                f"{self._records.parent} holds work of another recipe ({', '.join(job.name for job in stale)}); "
                "give --overwrite to do it again, or another folder: --set out_dir=FOLDER"
            )
        try:
            for job in stale:
                if job.folder.exists():
                    shutil.rmtree(job.folder)
                self.log(job.name).unlink(missing_ok=True)
                self.record_path(job.name).unlink()
        except OSError as error:
            raise self._unusable(error) from error

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other calls out of the folder. The lock of a killed call is gone with it.

        Raises:
            SettingError: another call is at work there, or the folder cannot be written.
        """
        busy = SettingError(f"{self._records.parent}: another call is at work there; wait for it")
        with ExitStack() as stack:
            try:
                for folder in (self._records, self._logs):
                    folder.mkdir(parents=True, exist_ok=True)
                stack.enter_context(locked(self._records / ".lock", busy))
            except OSError as error:
                raise self._unusable(error) from error
            yield

    def _unusable(self, error: OSError) -> SettingError:
        return SettingError(
            f"{self._records.parent}: cannot be written ({error.strerror or error}); give another folder: "
            "--set out_dir=FOLDER"
        )


def run_jobs(
    jobs: Collection[Job],
    ledger: Ledger,
    at_once: int,
    command: Command,
    say: Callable[[str], None],
    imported: Sequence[str] = (),
) -> list[str]:
    """Do every job that is not done, those with the longest chain behind them first.

    A job that fails stops those that need it, and no others.

    Args:
        jobs: each behind those that it needs.
        ledger: where they are recorded, after `clear`.
        at_once: how many may run at a time; each has one thread.
        command: takes the arguments of a job; a module's function, such as that of the command line.
        say: is told what happens, line by line.
        imported: modules that are imported once for all jobs, in the server that they are forked from.

    Returns:
        Names of the jobs that could not be done.
    """
    # What torch and its libraries read as they are imported.
    os.environ["OMP_NUM_THREADS"] = "1"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(imported))
    first = priorities(jobs)
    done, failed = ledger.done(jobs), list[str]()
    waiting = [job for job in jobs if job.name not in done]
    running: dict[str, BaseProcess] = {}
    try:
        while True:
            for job in next_jobs(waiting, done, first, at_once - len(running)):
                waiting.remove(job)
                running[job.name] = context.Process(target=_carry_out, args=(command, job, ledger))
                running[job.name].start()
                say(f"start  {job.name}")
            if not running:
                return failed + [job.name for job in waiting]
            wait([process.sentinel for process in running.values()])
            for name in [name for name, process in running.items() if not process.is_alive()]:
                code = running.pop(name).exitcode
                (done.add if code == 0 else failed.append)(name)
                say(_ended(name, code, ledger, running))
                say(f"       {len(done)} of {len(jobs)} done, running: {', '.join(running) or 'none'}")
    finally:
        _end(list(running.values()))


def priorities(jobs: Collection[Job]) -> dict[str, float]:
    """Of each job, the minutes of the longest chain of jobs that begins with it; each stands behind those it needs."""
    longest: dict[str, float] = {}
    for job in reversed(list(jobs)):
        longest[job.name] = job.minutes + longest.get(job.name, 0.0)
        for name in job.after:
            longest[name] = max(longest.get(name, 0.0), longest[job.name])
    return longest


def next_jobs(waiting: Sequence[Job], done: Collection[str], first: Mapping[str, float], free: int) -> list[Job]:
    """Jobs to start now: those that need nothing any more, the one with the longest chain behind it first."""
    ready = [job for job in waiting if all(name in done for name in job.after)]
    return sorted(ready, key=lambda job: -first[job.name])[:free]


def _ended(name: str, code: int | None, ledger: Ledger, running: Collection[str]) -> str:
    record = ledger.read(name)
    if code == 0 and record is not None and record.ended is not None:
        return f"end    {name}, {_clock(record.ended - record.began)}"
    lines = ledger.log(name).read_text(encoding="utf-8", errors="replace").splitlines()[-_LAST_LINES:]
    return "\n".join([f"FAILED {name} (exit code {code}); {ledger.log(name)} ends with:", *(f"  {x}" for x in lines)])


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d} min"


def _carry_out(command: Command, job: Job, ledger: Ledger) -> None:
    """The whole life of a job's process."""
    end_with_parent()
    with ledger.log(job.name).open("ab") as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
    before = ledger.read(job.name)
    words = ["videoreasoner", *job.arguments]
    record = Record(job.identity, words, 1 if before is None else before.starts + 1, time.time())
    record.write(ledger.record_path(job.name))
    # Runs record the command that made them.
    sys.argv = words
    try:
        command(list(job.arguments))
    except SystemExit as end:
        if end.code:
            raise
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu_seconds = sum(of.ru_utime + of.ru_stime for of in used)
    replace(record, ended=time.time(), cpu_seconds=round(cpu_seconds, 2)).write(ledger.record_path(job.name))


def _end(processes: Sequence[BaseProcess]) -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(_GRACE_S)
        if process.is_alive():
            process.kill()
            process.join()
