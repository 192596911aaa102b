"""Jobs that write a line each: their order, their failures, and what a kill leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.reproduction.jobs import Job, Ledger, next_jobs, priorities, run_jobs
from tests.paths import ROOT
from videoreasoner.errors import SettingError


def job(folder: Path, name: str, what: str = "", after: str = "", minutes: float = 1.0, identity: str = "1") -> Job:
    return Job(name, (str(folder), name, what), folder / "made" / name, tuple(after.split()), minutes, identity)


def work(arguments: list[str]) -> None:
    """What jobs here do: note that they began, do as they are told, note that they ended."""
    folder, name, what = arguments
    _note(folder, f"begin {name} {os.getpid()}")
    print(f"{name} was here")
    if what == "fail":
        sys.exit(3)
    if what == "raise":
        raise RuntimeError("a defect")
    if what == "hang":
        time.sleep(600)
    if what == "meet":
        _until(lambda: sum(line.startswith("begin") for line in notes(Path(folder))) >= 2)
    made = Path(folder) / "made" / name
    made.mkdir(parents=True)
    _note(folder, f"end {name} {os.getpid()}")
    sys.exit(0)


def _note(folder: str, line: str) -> None:
    with (Path(folder) / "notes").open("a") as file:
        file.write(line + "\n")


def _until(is_so: object) -> None:
    # The test's own time limit says when this has taken too long.
    while not is_so():  # type: ignore[operator]
        time.sleep(0.02)


def notes(folder: Path) -> list[str]:
    path = folder / "notes"
    return path.read_text().splitlines() if path.exists() else []


def names(folder: Path, kind: str) -> list[str]:
    return [line.split()[1] for line in notes(folder) if line.startswith(kind)]


def run(folder: Path, jobs: list[Job], at_once: int = 1, overwrite: bool = False) -> tuple[list[str], list[str]]:
    """Names of the jobs that could not be done, and what was said."""
    said: list[str] = []
    ledger = Ledger(folder)
    with ledger.held():
        ledger.clear(jobs, overwrite)
        failed = run_jobs(jobs, ledger, at_once, work, said.append)
    return failed, said


def test_the_longest_chain_comes_first(tmp_path: Path) -> None:
    jobs = [job(tmp_path, "short", minutes=3), job(tmp_path, "a"), job(tmp_path, "b", after="a", minutes=9)]
    assert run(tmp_path, jobs)[0] == []
    assert names(tmp_path, "begin") == ["a", "b", "short"]
    assert priorities(jobs) == {"short": 3.0, "a": 10.0, "b": 9.0}
    # What is done is not waiting any more.
    assert next_jobs([jobs[0], jobs[2]], {"a"}, priorities(jobs), 1) == [jobs[2]]
    assert next_jobs(jobs, set(), priorities(jobs), 9) == [jobs[1], jobs[0]]


def test_as_many_run_at_once_as_may(tmp_path: Path) -> None:
    # Each waits until both have begun.
    assert run(tmp_path, [job(tmp_path, "a", "meet"), job(tmp_path, "b", "meet")], at_once=2)[0] == []
    assert [line.split()[0] for line in notes(tmp_path)] == ["begin", "begin", "end", "end"]


@pytest.mark.parametrize(("what", "shown"), [("fail", "a was here"), ("raise", "RuntimeError: a defect")])
def test_a_failure_stops_what_needs_it_and_nothing_else(tmp_path: Path, what: str, shown: str) -> None:
    jobs = [job(tmp_path, "a", what, minutes=9), job(tmp_path, "b", after="a"), job(tmp_path, "c")]
    failed, said = run(tmp_path, jobs)
    assert failed == ["a", "b"]
    assert names(tmp_path, "end") == ["c"]
    [message] = [text for text in said if text.startswith("FAILED a")]
    assert shown in message
    # The same call tries again, and goes on to the end once the reason is gone.
    jobs[0] = job(tmp_path, "a")
    assert run(tmp_path, jobs)[0] == []
    assert names(tmp_path, "end") == ["c", "a", "b"]


def test_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    jobs = [job(tmp_path, "a"), job(tmp_path, "b", after="a")]
    run(tmp_path, jobs[:1])
    run(tmp_path, jobs)
    assert names(tmp_path, "begin") == ["a", "b"]
    record = json.loads((tmp_path / "jobs" / "a.json").read_text())
    assert record["command"] == ["videoreasoner", *jobs[0].arguments]
    assert record["starts"] == 1
    assert record["ended"] >= record["began"]


def test_work_of_another_recipe_is_refused_or_done_again(tmp_path: Path) -> None:
    run(tmp_path, [job(tmp_path, "a"), job(tmp_path, "b")])
    other = [job(tmp_path, "a"), job(tmp_path, "b", identity="2")]
    with pytest.raises(SettingError, match=r"another recipe \(b\)"):
        run(tmp_path, other)
    assert (tmp_path / "made" / "b").is_dir()
    assert run(tmp_path, other, overwrite=True)[0] == []
    assert names(tmp_path, "begin") == ["a", "b", "b"]
    run(tmp_path, other)
    assert names(tmp_path, "begin") == ["a", "b", "b"]


def test_two_calls_do_not_share_a_folder(tmp_path: Path) -> None:
    with Ledger(tmp_path).held(), pytest.raises(SettingError, match="another call is at work"):
        run(tmp_path, [job(tmp_path, "a")])
    assert run(tmp_path, [job(tmp_path, "a")])[0] == []


_CALL = """
import signal
import sys
from pathlib import Path
from tests.experiments.reproduction.test_jobs import job, run

if __name__ == "__main__":
    # Shells start what they put into the background with the signal ignored, and tests may be run there.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    folder = Path(sys.argv[1])
    run(folder, [job(folder, "a", minutes=9), job(folder, "b", "hang", after="a"), job(folder, "c", "hang")], at_once=2)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_call_leaves_no_process_and_loses_no_finished_job(tmp_path: Path, how: signal.Signals) -> None:
    script = tmp_path / "call.py"
    script.write_text(_CALL)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    call = subprocess.Popen([sys.executable, script, tmp_path], env=environment, stderr=subprocess.DEVNULL)
    _until(lambda: {"b", "c"} <= set(names(tmp_path, "begin")))
    call.send_signal(how)
    call.wait(timeout=60)
    began = [line.split() for line in notes(tmp_path)]
    workers = [int(pid) for kind, name, pid in began if kind == "begin" and name != "a"]
    _until(lambda: not any(_is_there(pid) for pid in workers))
    jobs = [job(tmp_path, "a", minutes=9), job(tmp_path, "b", after="a"), job(tmp_path, "c")]
    assert run(tmp_path, jobs)[0] == []
    assert names(tmp_path, "begin").count("a") == 1
    assert sorted(names(tmp_path, "end")) == ["a", "b", "c"]
    assert json.loads((tmp_path / "jobs" / "b.json").read_text())["starts"] == 2


def _is_there(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
