"""The cache of decoded frames: bounded, cheap to write, and safe with several processes and after damage."""

from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path

import numpy as np
import pytest

from videoreasoner.errors import SettingError
from videoreasoner.training.data import cache as cache_module
from videoreasoner.training.data.cache import ArrayCache


def entries(cache: ArrayCache) -> list[Path]:
    return sorted(cache.folder.glob("*.safetensors"))


def held_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def test_what_was_used_last_stays(tmp_path: Path) -> None:
    cache = ArrayCache(tmp_path / "cache", 10_000)
    for number in range(20):
        before = set(entries(cache))
        cache.put({"x": np.full(1000, number, np.uint8)}, number)
        [new] = set(entries(cache)) - before
        os.utime(new, ns=(number + 1, number + 1))
        assert held_bytes(cache.folder) <= 10_000 + 10
        # A read counts as use.
        assert cache.get(0) is not None
    assert cache.get(1) is None
    found = cache.get(19)
    assert found is not None
    assert (found["x"] == 19).all()


def test_what_exceeds_the_limit_is_not_kept(tmp_path: Path) -> None:
    cache = ArrayCache(tmp_path / "cache", 10_000)
    cache.put({"x": np.zeros(20_000, np.uint8)}, "too large")
    assert cache.get("too large") is None
    assert not entries(cache)


def test_damage_counts_as_missing(tmp_path: Path) -> None:
    cache = ArrayCache(tmp_path / "cache", 10_000)
    cache.put({"x": np.zeros(1000, np.uint8)}, 1)
    for path in cache.folder.iterdir():
        path.write_bytes(b"")
    assert cache.get(1) is None
    cache.put({"x": np.zeros(1000, np.uint8)}, 1)
    assert cache.get(1) is not None


def test_the_folder_is_listed_rarely(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A listing for every write would make an epoch quadratic in its rows."""
    listings = []
    scandir = os.scandir
    monkeypatch.setattr(cache_module.os, "scandir", lambda path: listings.append(path) or scandir(path))
    cache = ArrayCache(tmp_path / "cache", 100_000)
    for number in range(50):
        cache.put({"x": np.zeros(1000, np.uint8)}, number)
    # Once, to count what was there.
    assert len(listings) == 1
    for number in range(50, 290):
        cache.put({"x": np.zeros(1000, np.uint8)}, number)
    # Each listing makes room for a sixteenth of the limit, which is five entries.
    assert 20 <= len(listings) <= 50


def test_a_folder_that_another_version_filled_is_counted(tmp_path: Path) -> None:
    (tmp_path / "old.safetensors").write_bytes(bytes(9_500))
    cache = ArrayCache(tmp_path, 10_000)
    cache.put({"x": np.zeros(1000, np.uint8)}, 1)
    assert cache.get(1) is not None
    assert not (tmp_path / "old.safetensors").exists()


def test_files_that_a_killed_process_left_are_removed_and_those_being_written_are_not(tmp_path: Path) -> None:
    left, current = tmp_path / ".left.1.part", tmp_path / ".current.2.part"
    for path in (left, current):
        path.write_bytes(bytes(4_000))
    os.utime(left, (time.time() - 7200, time.time() - 7200))
    cache = ArrayCache(tmp_path, 10_000)
    cache.put({"x": np.zeros(3_000, np.uint8)}, 1)
    assert not left.exists()
    assert current.exists()
    assert cache.get(1) is not None


def fill(folder: Path, first: int) -> None:
    cache = ArrayCache(folder, 50_000)
    for number in range(first, first + 100):
        cache.put({"x": np.full(1000, number % 256, np.uint8)}, number)
        assert held_bytes_now(folder) <= 50_000 + 10 + 3 * 1_100


def held_bytes_now(folder: Path) -> int:
    total = 0
    for path in folder.iterdir():
        try:
            total += path.stat().st_size
        except FileNotFoundError:
            continue
    return total


def test_several_processes_keep_to_one_limit(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=fill, args=(tmp_path, 100 * number)) for number in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    cache = ArrayCache(tmp_path, 50_000)
    kept = [number for number in range(300) if cache.get(number) is not None]
    assert len(kept) == len(entries(cache)) > 30
    assert sum(path.stat().st_size for path in entries(cache)) <= 50_000
    for number in kept:
        found = cache.get(number)
        assert found is not None
        assert (found["x"] == number % 256).all()


def test_a_folder_that_cannot_be_made_is_named() -> None:
    with pytest.raises(SettingError, match=r"frame_cache_dir .*cannot be made"):
        ArrayCache(Path(__file__) / "folder", 1)
