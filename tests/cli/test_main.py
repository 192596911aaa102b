"""Errors and exit codes, help, and completion."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import typer.main

from tests.cli.calling import Loading, Result, Run, in_a_process, one_line
from tests.video.videos import Recipe, overwrite_packets
from videoreasoner.cli.main import app, main
from videoreasoner.errors import QuestionError, Stopped, VideoError
from videoreasoner.inference.reasoner import Reasoner


def test_commands_that_do_not_exist_and_help(run: Run) -> None:
    one_line(run("frobnicate"), "frobnicate")
    one_line(run("synthetic"), "command")
    for arguments in ([], ["--help"]):
        result = run(*arguments)
        assert (result.code, result.err) == (0, "")
        assert "Usage: videoreasoner" in result.out
    assert run("--version").out.startswith("videoreasoner ")


def test_debug_shows_the_error_wherever_it_stands(video_file: Path) -> None:
    with pytest.raises(VideoError):
        main(["--debug", "ask", "/no/such/video.mp4", "What?"])
    with pytest.raises(QuestionError):
        main(["ask", str(video_file), " ", "--debug"])


def test_a_defect_of_ours_is_exit_code_1_with_a_traceback(monkeypatch: pytest.MonkeyPatch, video_file: Path) -> None:
    def break_down(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Reasoner, "from_pretrained", break_down)
    with pytest.raises(ZeroDivisionError):
        main(["ask", str(video_file), "What?"])


def test_a_damaged_video_and_warnings_of_libraries_leave_stderr_alone(tmp_path: Path) -> None:
    path = Recipe("damaged.mp4", count=60, options={"bf": "0", "g": "5"}).make(tmp_path)
    overwrite_packets(path, lambda number: 20 <= number < 40)
    result = in_a_process("ask", path, "What?")
    assert result.code == 0
    [line] = result.err.splitlines()
    assert line.startswith("Warning: This video does not look like")
    assert "Note" in result.out


def test_a_run_that_is_stopped_says_so_in_one_line(monkeypatch: pytest.MonkeyPatch, run: Run, video_file: Path) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Reasoner, "from_pretrained", stop)
    assert run("ask", video_file, "What?") == Result(130, "", "stopped\n")

    def stop_with_advice(*_: Any, **__: Any) -> None:
        raise Stopped("stopped at step 3 of 9; run the same command to go on")

    monkeypatch.setattr(Reasoner, "from_pretrained", stop_with_advice)
    advice = "stopped at step 3 of 9; run the same command to go on\n"
    assert run("ask", video_file, "What?") == Result(130, "", advice)


def _commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield path, command
    for name, child in getattr(command, "commands", {}).items():
        yield from _commands(child, (*path, name))


def test_every_command_has_the_common_flags() -> None:
    found = dict(_commands(typer.main.get_command(app)))
    assert len(found) > 10
    for path, command in found.items():
        flags = [flag for option in command.params for flag in option.opts if flag.startswith("-")]
        assert {"-v", "--verbose", "-q", "--quiet", "--debug"} <= set(flags), path
        assert len(set(flags)) == len(flags), path


def test_h_is_help(run: Run) -> None:
    for arguments in ((), ("ask",), ("eval", "synthetic")):
        assert run(*arguments, "-h") == run(*arguments, "--help")
        assert run(*arguments, "-h").code == 0


def test_how_much_is_logged_follows_the_flags(run: Run, video_file: Path, loading: Loading) -> None:
    log = logging.getLogger("videoreasoner")
    for flags, level in (((), logging.INFO), (("-v",), logging.DEBUG), (("--quiet",), logging.ERROR)):
        assert run("ask", video_file, "What?", *flags).code == 0
        assert log.level == level
    assert run("-q", "ask", video_file, "What?").err == ""
    assert log.level == logging.ERROR


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_a_full_disk_behind_the_output_is_one_line() -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "videoreasoner", "--version"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert done.stderr == ("error: the output cannot be written (No space left on device); send it somewhere else\n")


def test_bad_input_in_a_process_of_its_own_is_one_line(tmp_path: Path) -> None:
    path = Recipe("ribbon.mp4", count=4, size=(402, 2)).make(tmp_path)
    one_line(in_a_process("ask", path, "What?"), str(path))
    one_line(in_a_process("ask", tmp_path / "missing.mp4", "What?"), "missing.mp4")


def start(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "videoreasoner", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **environment}, timeout=60
    )


@pytest.mark.parametrize("arguments", [(), ("ask",), ("eval", "synthetic"), ("train", "grpo"), ("synthetic", "make")])
def test_help_needs_no_torch_and_is_shown_at_once(arguments: tuple[str, ...]) -> None:
    before = os.times()
    done = start(*arguments, "--help")
    after = os.times()
    assert done.returncode == 0
    assert done.stdout.startswith("Usage: videoreasoner")
    # Of the processor, not of the clock, because the machine may be busy with other tests.
    seconds = after.children_user - before.children_user + after.children_system - before.children_system
    assert 0 < seconds < 0.7
    modules = "import sys; from videoreasoner.cli.main import app; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", modules], text=True) == "False\n"


def test_a_shell_completes_commands_and_options() -> None:
    def complete(words: str) -> str:
        done = start(
            _VIDEOREASONER_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=str(len(words.split(" ")) - 1)
        )
        return done.stdout

    assert "synthetic" in complete("videoreasoner sy").split()
    assert "--frame-budget" in complete("videoreasoner ask --fr").split()
    assert {"focus", "direct", "think"} <= set(complete("videoreasoner ask --mode ").split())


def test_the_completion_script_is_shown() -> None:
    done = start("--show-completion", "bash", _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert done.returncode == 0
    assert "_VIDEOREASONER_COMPLETE" in done.stdout
