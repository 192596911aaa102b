from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch

from videoreasoner.errors import CheckpointError, SettingError
from videoreasoner.inference.candidate import LocalCandidate
from videoreasoner.models.checkpoint import find_folder
from videoreasoner.utils.hashing import hash_checkpoint


def test_the_identity_changes_with_model_and_settings_and_needs_no_model() -> None:
    plain = LocalCandidate("tiny").identity()
    assert plain["model_hash"] == hash_checkpoint(find_folder("tiny"))
    assert plain["encoder_hash"] is not None
    changed = LocalCandidate("tiny", settings={"frame_budget": 4, "encoder": None}).identity()
    assert changed["settings"] == {**plain["settings"], "frame_budget": 4}
    without = LocalCandidate("tiny", settings={"encoder": "none"}).identity()
    assert without["encoder_hash"] is None
    # Where it runs, and in how many threads, is no part of what it answers.
    assert LocalCandidate("tiny", device="cpu", threads=2).identity() == plain


@pytest.mark.parametrize(
    ("candidate", "error", "message"),
    [
        (LocalCandidate("./nowhere"), CheckpointError, "nowhere"),
        (LocalCandidate("tiny", settings={"frame_budget": 1}), SettingError, "frame_budget"),
    ],
)
def test_mistakes_are_named_before_anything_is_loaded(
    candidate: LocalCandidate, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        candidate.identity()


def test_a_number_of_threads_below_one_is_refused() -> None:
    with pytest.raises(SettingError, match="--threads"):
        LocalCandidate(threads=0)


def test_it_loads_in_another_process_with_its_threads_and_settings(tmp_path: Path) -> None:
    candidate = pickle.loads(pickle.dumps(LocalCandidate("tiny", "cpu", 1, {"frame_budget": 4, "encoder": "none"})))
    before = torch.get_num_threads()
    try:
        reasoner = candidate.load()
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
    assert reasoner.settings.frame_budget == 4
    assert reasoner.encoder is None


def test_it_knows_what_its_answers_are_given_with_before_it_is_loaded() -> None:
    for candidate in (LocalCandidate("tiny", "cpu", None), LocalCandidate("tiny", "cpu", 1, {"encoder": "none"}, True)):
        reasoner = candidate.load()
        said = {"engine": reasoner.engine.identity(), "settings": reasoner.settings.for_inference()}
        assert candidate.answers_as() == said


def test_an_encoder_that_only_the_checkpoint_names_is_not_fetched_to_be_hashed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def snapshot_download(name: str, local_files_only: bool, **_: object) -> str:
        asked.append(local_files_only)
        raise OSError("no network here")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    folder = Path(shutil.copytree(find_folder("tiny"), tmp_path / "model"))
    path = folder / "videoreasoner.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "encoder": "org/encoder"}))
    with pytest.raises(CheckpointError, match="--encoder org/encoder"):
        LocalCandidate(str(folder)).identity()
    assert asked == [True]
    with pytest.raises(CheckpointError, match="org/encoder"):
        LocalCandidate(str(folder), settings={"encoder": "org/encoder"}).identity()
    assert asked == [True, False]
