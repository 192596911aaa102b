"""A checkpoint folder, however strange, loads or is refused in one line, within limits of memory and time."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.models.strange_folders import try_one
from tests.paths import ROOT


@pytest.mark.parametrize(("kind", "count"), [("model", 120), ("encoder", 120)])
def test_spoiled_folders_load_or_are_refused(kind: str, count: int, tmp_path: Path) -> None:
    results = [try_one(kind, seed, tmp_path / "folder") for seed in range(count)]
    assert {"loaded", "refused"} == set(results), [r for r in results if r not in ("loaded", "refused")]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", ["model", "encoder"])
def test_spoiled_folders_of_fresh_seeds(kind: str, tmp_path: Path) -> None:
    seed, count = random.SystemRandom().randrange(10**9), 1500
    print(f"seeds {seed} to {seed + count - 1}")
    command = [sys.executable, "-m", "tests.models.strange_folders", kind, str(seed), str(count)]
    done = subprocess.run(
        [*command, str(tmp_path / "folder")], capture_output=True, text=True, check=False, cwd=ROOT, timeout=1700
    )
    assert done.returncode == 0, done.stderr[-2000:]
    [summary, *problems] = done.stdout.splitlines()
    assert not problems, "\n".join([summary, *problems])
