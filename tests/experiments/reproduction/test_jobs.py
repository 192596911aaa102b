"""Running commands: order, failures, kills."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from experiments.reproduction.jobs import PRELOADED, Command, chain_lengths, remove_stale, run_commands
from tests.paths import ROOT
from videoreasoner.errors import SettingError


def command(folder: Path, name: str, what: str = "", needs: str = "", content: str = "1") -> Command:
    return Command(name, [str(folder), name, what], folder, folder / "made" / name, needs.split(), content)


def work(arguments: list[str]) -> None:
    """The entry of the commands in these tests: note the start, do what `what` says, note the end."""
    folder, name, what = arguments
    _note(folder, f"begin {name} {os.getpid()} {os.environ.get('OMP_NUM_THREADS')}")
    print(f"{name} was here")
    if what == "fail":
        sys.exit(3)
    if what == "raise":
        raise RuntimeError("a defect")
    if what == "hang":
        time.sleep(600)
    if what == "meet":
        _until(lambda: sum(line.startswith("begin") for line in notes(Path(folder))) >= 2)
    (Path(folder) / "made" / name).mkdir(parents=True)
    _note(folder, f"end {name} {os.getpid()}")
    sys.exit(0)


def _note(folder: str, line: str) -> None:
    with (Path(folder) / "notes").open("a") as file:
        file.write(line + "\n")


def _until(condition: Callable[[], bool]) -> None:
    # The time limit of the test ends the wait.
    while not condition():
        time.sleep(0.02)


def notes(folder: Path) -> list[str]:
    path = folder / "notes"
    return path.read_text().splitlines() if path.exists() else []


def names(folder: Path, kind: str) -> list[str]:
    return [line.split()[1] for line in notes(folder) if line.startswith(kind)]


def run(
    folder: Path,
    commands: list[Command],
    at_once: int = 1,
    overwrite: bool = False,
    preloaded: Sequence[str] = PRELOADED,
) -> tuple[list[str], list[str]]:
    """Names of the commands that failed, and the reported lines.

    All tests of a session share one fork server, so these leave it as `run_commands` starts it for real commands.
    """
    lines: list[str] = []
    by_name = {command.name: command for command in commands}
    remove_stale(by_name, overwrite)
    return run_commands(by_name, at_once, work, lines.append, preloaded), lines


def test_the_longest_chain_comes_first(tmp_path: Path) -> None:
    commands = [command(tmp_path, "short"), command(tmp_path, "a"), command(tmp_path, "b", needs="a")]
    assert chain_lengths({c.name: c for c in commands}) == {"short": 1, "a": 2, "b": 1}
    assert run(tmp_path, commands)[0] == []
    assert names(tmp_path, "begin") == ["a", "short", "b"]


def test_two_commands_run_at_once(tmp_path: Path) -> None:
    # Each waits until both have started.
    assert run(tmp_path, [command(tmp_path, "a", "meet"), command(tmp_path, "b", "meet")], at_once=2)[0] == []
    assert [line.split()[0] for line in notes(tmp_path)] == ["begin", "begin", "end", "end"]


@pytest.mark.parametrize("outside", [None, "7"])
def test_only_the_processes_of_commands_are_limited_to_one_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outside: str | None
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if outside:
        monkeypatch.setenv("OMP_NUM_THREADS", outside)
    run(tmp_path, [command(tmp_path, "a")])
    assert notes(tmp_path)[0].split()[-1] == "1"
    assert os.environ.get("OMP_NUM_THREADS") == outside


@pytest.mark.parametrize(("what", "shown"), [("fail", "a was here"), ("raise", "RuntimeError: a defect")])
def test_a_failure_stops_what_needs_it_and_nothing_else(tmp_path: Path, what: str, shown: str) -> None:
    commands = [command(tmp_path, "a", what), command(tmp_path, "b", needs="a"), command(tmp_path, "c")]
    failed, lines = run(tmp_path, commands)
    assert failed == ["a", "b"]
    assert names(tmp_path, "end") == ["c"]
    [message] = [text for text in lines if text.startswith("FAILED a")]
    assert shown in message
    # A second call tries again.
    commands[0] = command(tmp_path, "a")
    assert run(tmp_path, commands)[0] == []
    assert names(tmp_path, "end") == ["c", "a", "b"]


def test_a_finished_command_is_not_run_again(tmp_path: Path) -> None:
    commands = [command(tmp_path, "a"), command(tmp_path, "b", needs="a")]
    run(tmp_path, commands[:1])
    run(tmp_path, commands)
    assert names(tmp_path, "begin") == ["a", "b"]
    stamp = commands[0].read_stamp() or {}
    assert stamp["command"] == ["videoreasoner", *commands[0].arguments]
    assert stamp["starts"] == 1
    assert stamp["ended"] >= stamp["began"]
    # What somebody removed is made again.
    (tmp_path / "made" / "b").rmdir()
    run(tmp_path, commands)
    assert names(tmp_path, "begin") == ["a", "b", "b"]


def test_work_of_another_recipe_is_refused_or_replaced(tmp_path: Path) -> None:
    run(tmp_path, [command(tmp_path, "a"), command(tmp_path, "b")])
    other = [command(tmp_path, "a"), command(tmp_path, "b", content="2")]
    with pytest.raises(SettingError, match=r"another recipe \(b\)"):
        run(tmp_path, other)
    assert (tmp_path / "made" / "b").is_dir()
    assert run(tmp_path, other, overwrite=True)[0] == []
    assert names(tmp_path, "begin") == ["a", "b", "b"]


def test_a_damaged_stamp_is_named(tmp_path: Path) -> None:
    run(tmp_path, [command(tmp_path, "a")])
    (tmp_path / "stamps" / "a.json").write_text("{")
    with pytest.raises(SettingError, match=r"stamps/a\.json: not a stamp"):
        run(tmp_path, [command(tmp_path, "a")])


_CALL = """
import signal
import sys
from pathlib import Path
from tests.experiments.reproduction.test_jobs import command, run

if __name__ == "__main__":
    # A shell starts background processes with this signal ignored, and these tests may run in one.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    folder = Path(sys.argv[1])
    commands = [command(folder, "a"), command(folder, "b", "hang", "a"), command(folder, "c", "hang")]
    run(folder, commands, at_once=2, preloaded=())
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_call_leaves_no_process_and_loses_no_finished_command(tmp_path: Path, how: signal.Signals) -> None:
    script = tmp_path / "call.py"
    script.write_text(_CALL)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")])}
    call = subprocess.Popen([sys.executable, script, tmp_path], env=environment, stderr=subprocess.DEVNULL)
    _until(lambda: {"b", "c"} <= set(names(tmp_path, "begin")))
    call.send_signal(how)
    call.wait(timeout=60)
    began = [line.split() for line in notes(tmp_path) if line.startswith("begin")]
    workers = [int(pid) for _, name, pid, _ in began if name != "a"]
    _until(lambda: not any(_is_running(pid) for pid in workers))
    commands = [command(tmp_path, "a"), command(tmp_path, "b", needs="a"), command(tmp_path, "c")]
    assert run(tmp_path, commands)[0] == []
    assert names(tmp_path, "begin").count("a") == 1
    assert sorted(names(tmp_path, "end")) == ["a", "b", "c"]
    assert (commands[1].read_stamp() or {})["starts"] == 2


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
