from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from videoreasoner.errors import EvaluationError, SettingError
from videoreasoner.inference.candidate import LocalCandidate
from videoreasoner.models.checkpoint import SHIPPED
from videoreasoner.rows import Row
from videoreasoner.utils.hashing import hash_checkpoint, hash_rows


def rows() -> list[Row]:
    return [Row.model_validate({"id": str(n), "video": f"{n}.mp4", "question": "?"}) for n in range(3)]


def test_rows_in_any_order_have_one_hash_and_every_byte_counts(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.mp4").write_bytes(bytes([number]))
    first = hash_rows(rows(), tmp_path)
    assert hash_rows(rows()[::-1], tmp_path) == first
    assert hash_rows(rows()[1:], tmp_path) != first
    assert hash_rows([rows()[0].model_copy(update={"answer": "x"}), *rows()[1:]], tmp_path) != first
    (tmp_path / "1.mp4").write_bytes(b"\2")
    assert hash_rows(rows(), tmp_path) != first
    (tmp_path / "1.mp4").unlink()
    with pytest.raises(EvaluationError, match=r"1\.mp4"):
        hash_rows(rows(), tmp_path)


def test_a_checkpoint_is_known_by_what_it_answers_with(tmp_path: Path) -> None:
    copy = shutil.copytree(SHIPPED / "tiny-base", tmp_path / "copy")
    first = hash_checkpoint(SHIPPED / "tiny-base")
    assert hash_checkpoint(copy) == first
    (copy / "trainer_state.json").write_text("{}")
    assert hash_checkpoint(copy) == first
    (copy / "processor_config.json").write_text("{}")
    assert hash_checkpoint(copy) != first
    (copy / "processor_config.json").unlink()
    for name in ("videoreasoner.json", "tokenizer.json", "model.safetensors"):
        path = copy / name
        content = path.read_bytes()
        path.write_bytes(content + b" ")
        assert hash_checkpoint(copy) != first, name
        path.write_bytes(content)


def test_identity_says_what_loading_would_use() -> None:
    candidate = LocalCandidate("tiny", settings={"frame_budget": 8, "encoder": None})
    identity = candidate.identity()
    reasoner = candidate.load()
    assert identity["settings"] == reasoner.settings.for_inference()
    assert identity["settings"]["frame_budget"] == 8
    assert identity["encoder_hash"] == hash_checkpoint(SHIPPED / "tiny-encoder")
    assert LocalCandidate("tiny", settings={"encoder": "none"}).identity()["encoder_hash"] is None
    assert LocalCandidate("tiny-base").identity()["model_hash"] != identity["model_hash"]
    with pytest.raises(SettingError, match="--threads"):
        LocalCandidate(threads=0)
