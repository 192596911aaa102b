"""Run commands in processes of their own, several at once, in the order of their needs.

The stamp of a command holds its hash and its times. A command is skipped if its stamp says that it has ended; otherwise
it is started (again) and resumes by itself. Every process imports this module, so it imports nothing large.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from unittest import mock

from videoreasoner.errors import SettingError
from videoreasoner.utils.files import replacing
from videoreasoner.utils.processes import end_with_parent

# Importing these takes longer than a small command, so commands are forked from a process that has imported them.
PRELOADED = ("videoreasoner.training.grpo.setup", "videoreasoner.benchmarks.runner")
_SHOWN_LOG_LINES = 12
_GRACE_S = 5.0


@dataclass(frozen=True)
class Command:
    """One `videoreasoner` command.

    Attributes:
        name: names its log and its stamp.
        arguments: what follows `videoreasoner`.
        out: the folder of all commands; it holds the logs and stamps.
        folder: what it writes.
        needs: names of the commands that must have ended before.
        hash: of everything that decides what it writes, including the commands that it needs.
    """

    name: str
    arguments: list[str]
    out: Path
    folder: Path
    needs: list[str]
    hash: str

    @property
    def log_path(self) -> Path:
        return self.out / "logs" / f"{self.name}.log"

    @property
    def stamp_path(self) -> Path:
        return self.out / "stamps" / f"{self.name}.json"

    def read_stamp(self) -> dict[str, Any] | None:
        """The stamp, or None if the command was never started.

        Returns:
            hash; command, to run it by hand; starts, how often it was started; began and ended in seconds since 1970,
            of the last start (ended is None until it has ended); cpu_seconds of its process and child processes.

        Raises:
            SettingError: the file is damaged.
        """
        try:
            return dict(json.loads(self.stamp_path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            raise SettingError(f"{self.stamp_path}: not a stamp ({error}); remove it and start again") from error

    def has_ended(self) -> bool:
        stamp = self.read_stamp()
        return stamp is not None and stamp["ended"] is not None and self.folder.exists()


def remove_stale(commands: Mapping[str, Command], overwrite: bool) -> None:
    """Remove what commands of another recipe left in the folder.

    Raises:
        SettingError: there is such work, and `overwrite` is false.
    """
    stale = [c for c in commands.values() if (stamp := c.read_stamp()) is not None and stamp["hash"] != c.hash]
    if stale and not overwrite:
        names = ", ".join(command.name for command in stale)
        remedy = "give --overwrite to replace it, or another folder: --set out_dir=FOLDER"
        raise SettingError(f"{stale[0].out} holds work of another recipe ({names}); {remedy}")
    for command in stale:
        if command.folder.exists():
            shutil.rmtree(command.folder)
        command.log_path.unlink(missing_ok=True)
        command.stamp_path.unlink()


def chain_lengths(commands: Mapping[str, Command]) -> dict[str, int]:
    """For each command, the length of the longest chain of commands that starts with it."""
    lengths = dict.fromkeys(commands, 1)
    for command in reversed(list(commands.values())):
        for need in command.needs:
            lengths[need] = max(lengths[need], lengths[command.name] + 1)
    return lengths


def run_commands(
    commands: Mapping[str, Command],
    at_once: int,
    entry: Callable[[list[str]], None],
    report: Callable[[str], None] = print,
    preloaded: Sequence[str] = PRELOADED,
) -> list[str]:
    """Run every command that has not ended, those with the longest chain behind them first.

    A command that fails stops the commands that need it, and no others.

    Args:
        commands: each after the commands that it needs.
        at_once: number of processes at a time; each uses one thread.
        entry: called with the arguments of a command, in a process of its own.
        report: receives the progress, line by line.
        preloaded: modules that are imported once, in the process that the commands are forked from.

    Returns:
        Names of the commands that failed or could not start.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preloaded))
    # torch and its libraries read this when they are imported. Only the fork server and its children get it.
    with mock.patch.dict(os.environ, OMP_NUM_THREADS="1"):
        forkserver.ensure_running()
    lengths = chain_lengths(commands)
    done = {name for name, command in commands.items() if command.has_ended()}
    waiting = sorted((c for c in commands.values() if c.name not in done), key=lambda c: -lengths[c.name])
    failed: list[str] = []
    running: dict[str, BaseProcess] = {}
    try:
        while True:
            ready = [command for command in waiting if done.issuperset(command.needs)]
            for command in ready[: at_once - len(running)]:
                waiting.remove(command)
                running[command.name] = context.Process(target=_run_command, args=(entry, command))
                running[command.name].start()
                report(f"start  {command.name}")
            if not running:
                return failed + [command.name for command in waiting]
            wait([process.sentinel for process in running.values()])
            for name in [name for name, process in running.items() if not process.is_alive()]:
                code = running.pop(name).exitcode
                (done.add if code == 0 else failed.append)(name)
                report(_ending(commands[name], code))
                report(f"       {len(done)} of {len(commands)} done, running: {', '.join(running) or 'none'}")
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.join(_GRACE_S)
            process.kill()
            process.join()


def _ending(command: Command, code: int | None) -> str:
    if code == 0:
        stamp = command.read_stamp() or {}
        minutes, seconds = divmod(round(stamp["ended"] - stamp["began"]), 60)
        return f"end    {command.name}, {minutes}:{seconds:02d} min"
    head = f"FAILED {command.name} (exit code {code}); {command.log_path} ends with:"
    log = command.log_path.read_text(encoding="utf-8", errors="replace") if command.log_path.exists() else ""
    return "\n".join([head, *(f"  {line}" for line in log.splitlines()[-_SHOWN_LOG_LINES:])])


def _run_command(entry: Callable[[list[str]], None], command: Command) -> None:
    """Everything that the process of a command does."""
    end_with_parent()
    for path in (command.log_path, command.stamp_path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with command.log_path.open("ab") as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
    # Runs record sys.argv as the command that made them.
    sys.argv = ["videoreasoner", *command.arguments]
    starts = (command.read_stamp() or {"starts": 0})["starts"] + 1
    stamp = {"hash": command.hash, "command": sys.argv, "starts": starts, "began": time.time(), "ended": None}
    _write(command.stamp_path, stamp)
    try:
        entry(command.arguments)
    except SystemExit as end:
        if end.code:
            raise
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu_seconds = round(sum(of.ru_utime + of.ru_stime for of in used), 2)
    _write(command.stamp_path, {**stamp, "ended": time.time(), "cpu_seconds": cpu_seconds})


def _write(path: Path, stamp: dict[str, Any]) -> None:
    with replacing(path) as partial:
        partial.write_text(json.dumps(stamp, indent=2) + "\n", encoding="utf-8")
