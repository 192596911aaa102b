from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from videoreasoner.utils.files import locked, replacing


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with replacing(path) as partial:
        partial.write_text("one")
        assert not path.exists()
    with pytest.raises(IsADirectoryError), replacing(path) as partial:
        (partial.write_text("two"), tmp_path.read_text())
    assert path.read_text() == "one"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_stays_one_and_rights_stay_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "volume").mkdir()
    real, link = tmp_path / "volume" / "real", tmp_path / "link"
    real.write_text("one")
    real.chmod(0o600)
    link.symlink_to("volume/real")
    with replacing(link) as partial:
        partial.write_text("two")
    assert link.is_symlink()
    assert real.read_text() == "two"
    assert real.stat().st_mode & 0o777 == 0o600


def _is_free(path: str) -> bool:
    try:
        with locked(Path(path), KeyError):
            return True
    except KeyError:
        return False


def test_a_lock_is_held_against_other_processes_and_gone_behind_the_block(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        with locked(path, KeyError):
            assert not pool.apply(_is_free, [str(path)])
        assert not path.exists()
        assert pool.apply(_is_free, [str(path)])


def test_a_lock_file_that_a_killed_process_left_holds_nothing(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.touch()
    assert _is_free(str(path))


def test_a_lock_file_says_who_holds_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with locked(path, KeyError), pytest.raises(KeyError, match=f"process {os.getpid()} on "), locked(path, KeyError):
        pass


def test_a_forked_helper_that_outlives_its_parent_holds_no_lock(tmp_path: Path) -> None:
    """The workers of torch's data loader are forked, and end some seconds after a parent that was killed."""
    path = tmp_path / "lock"
    context = multiprocessing.get_context("fork")
    ready, stays = context.Event(), context.Event()

    def hold() -> None:
        with locked(path, KeyError):
            helper = context.Process(target=lambda: (ready.set(), stays.wait(20)))
            helper.start()
            ready.wait(20)
            os.kill(os.getpid(), signal.SIGKILL)

    holder = context.Process(target=hold)
    holder.start()
    holder.join()
    try:
        assert _is_free(str(path))
    finally:
        stays.set()
