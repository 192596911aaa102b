"""`videoreasoner eval` with the shipped model, on real videos, killed for real."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.benchmarks.parrot import is_running
from videoreasoner.benchmarks.runner import load_run
from videoreasoner.cli.main import main

SMALL = ("--duration", "16", "--size", "32")


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        main([str(a) for a in arguments])
    captured = capsys.readouterr()
    assert isinstance(caught.value.code, int)
    return caught.value.code, captured.out, captured.err


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("videos")


def answers(folder: Path) -> list[dict[str, Any]]:
    """Results without what they cost: whether the work for a video was shared depends on where a run was cut."""
    return [{k: v for k, v in item.items() if k not in ("timing", "usage")} for item in load_run(folder).results]


def answered(folder: Path) -> dict[str, str]:
    """Id -> line of every answer that is there and whole."""
    path = folder / "answers.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return {json.loads(line)["id"]: line for line in lines}


def until(what: Callable[[], bool], process: subprocess.Popen[bytes] | None = None) -> None:
    """Wait for it; the test's own time limit ends what never comes."""
    while not what():
        assert process is None or process.poll() is None, "ended before it was killed"
        time.sleep(0.01)


def test_a_run_prints_its_table_and_is_compared(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ("--videos-dir", videos, "--videos", "3", *SMALL)
    for mode in ("direct", "focus", "think"):
        code, out, err = run(capsys, "eval", "synthetic", "--mode", mode, "--out", tmp_path / mode, *common)
        assert code == 0, err
        assert "| answer " in out
        assert "plain (n=3)" in out
        assert ("event_iou" in out) == (mode == "focus")
    # The shipped model was never taught to think.
    thought = load_run(tmp_path / "think").metrics["all"]["all"]
    assert (thought["answer"].mean, thought["answer_parsed"].mean) == (0, 0)
    assert thought["tokens_out"].mean >= 1
    code, out, err = run(capsys, "eval", "compare", tmp_path / "direct", tmp_path / "focus")
    assert code == 0, err
    means = {mode: load_run(tmp_path / mode).metrics["all"]["all"]["answer"].mean for mode in ("direct", "focus")}
    [line] = [line for line in out.splitlines() if line.startswith("| all ") and "| answer " in line]
    assert f"{100 * (means['focus'] - means['direct']):+.1f} [" in line
    code, _, _ = run(capsys, "eval", "synthetic", "--split", "plain", "--out", tmp_path / "plain", *common)
    assert code == 0
    code, _, err = run(capsys, "eval", "compare", tmp_path / "plain", tmp_path / "focus")
    assert code == 2
    assert "different data" in err


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_run_continues_without_redoing_or_losing_a_question(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], workers: int
) -> None:
    arguments = ["eval", "synthetic", "--videos-dir", str(videos), "--videos", "10", *SMALL]
    here = [*arguments, "--workers", str(workers), "--out", str(tmp_path / "killed")]
    process = subprocess.Popen([sys.executable, "-m", "videoreasoner", *here], stderr=subprocess.DEVNULL)
    until(lambda: len(answered(tmp_path / "killed")) >= 2, process)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.send_signal(signal.SIGKILL)
    process.wait()
    # Neither workers nor decoders outlive it, so nothing is written by two runs at once.
    until(lambda: not any(map(is_running, children)))
    before = answered(tmp_path / "killed")
    assert 2 <= len(before) < 20
    assert not (tmp_path / "killed" / "summary.json").exists()

    code, _, err = run(capsys, *here)
    assert code == 0, err
    after = answered(tmp_path / "killed")
    assert {name: after[name] for name in before} == before
    code, _, err = run(capsys, *arguments, "--out", tmp_path / "whole")
    assert code == 0, err
    assert answers(tmp_path / "killed") == answers(tmp_path / "whole")
    assert len(after) == 20


def test_a_small_needle_sweep(videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cells = ("--length", "10", "--length", "20", "--detail", "0.2", "--detail", "0.4")
    common = ("--videos-dir", videos, "--videos", "2", "--size", "32", "--out", tmp_path)
    code, out, err = run(capsys, "eval", "needle", *cells, *common)
    assert code == 0, err
    assert "Right answers, focus | 10 s | 20 s" in out
    content = json.loads((tmp_path / "needle.json").read_text())
    assert content["lengths_s"] == [10, 20]
    for panel in content["panels"]:
        filled = [[value is not None for value in line] for line in panel["values"]]
        assert filled == [[True, True], [False, True]]
        run_of_mode = load_run(tmp_path / panel["mode"])
        [[_, corner], _] = panel["values"]
        assert corner["mean"] == run_of_mode.metrics["cell"]["20s-0.2s"][panel["metric"]].mean
    with Image.open(tmp_path / "needle.png") as image:
        assert image.width > 3 * image.height > 0
    before = (tmp_path / "focus" / "results.jsonl").read_bytes()
    code, _, _ = run(capsys, "eval", "needle", *cells, *common)
    assert code == 0
    # Nothing was asked again: even the times are those of the first run.
    assert (tmp_path / "focus" / "results.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("synthetic", "--split", "both-of-them"), "--split"),
        (("synthetic", "--mode", "guess"), "'guess'"),
        (("synthetic", "--seed", "7"), "--seed 7"),
        (("synthetic", "--workers", "0"), "--workers"),
        (("synthetic", "--threads", "0"), "--threads"),
        (("synthetic", "--model", "./nowhere"), "nowhere"),
        (("synthetic", "--frame-budget", "1"), "frame_budget"),
        (("synthetic", "--set", "frame_bugdet=2"), "did you mean frame_budget?"),
        (("synthetic", "--videos", "0"), "videos"),
        (("needle", "--length", "60", "--length", "10"), "--length"),
        (("compare", "nowhere", "elsewhere"), "not a finished run"),
    ],
)
def test_bad_input_is_one_line_and_makes_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = run(capsys, "eval", *arguments)
    assert code == 2
    [line] = err.splitlines()
    assert line.startswith("error: ")
    assert said in line
    assert not list(tmp_path.iterdir())
