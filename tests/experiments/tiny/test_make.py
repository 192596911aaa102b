from __future__ import annotations

from pathlib import Path

from transformers import Qwen2VLForConditionalGeneration

from experiments.tiny.make import make_checkpoints
from experiments.tiny.model import PROMPTS
from experiments.tiny.stages import Stage
from videoreasoner.models.checkpoint import load_checkpoint
from videoreasoner.models.familiarity import Familiarity
from videoreasoner.retrieval.encoder import load_encoder


def test_it_makes_three_checkpoints_that_load(tmp_path: Path) -> None:
    glances, tasks = (
        Stage("glances", "glances", 2, 2, 1e-3, 0),
        Stage("tasks", "tasks", 2, 2, 1e-3, 1, train_vision=False),
    )
    lines: list[str] = []
    make_checkpoints(tmp_path, [glances], [tasks], encoder_steps=2, familiar_videos=20, report=lines.append)
    base, tiny = (load_checkpoint(tmp_path / name) for name in ("tiny-base", "tiny"))
    assert tiny.settings.prompts == PROMPTS
    assert [stage["examples"] for stage in tiny.settings.training["stages"]] == ["glances", "tasks"]
    assert "<|event_start|>" not in (tmp_path / "tiny-base" / "tokenizer.json").read_text()
    assert "<|event_start|>" in (tmp_path / "tiny" / "tokenizer.json").read_text()
    assert base.model.num_parameters() == tiny.model.num_parameters()
    assert Qwen2VLForConditionalGeneration.from_pretrained(tmp_path / "tiny").config.model_type == "qwen2_vl"
    assert load_encoder(tmp_path / "tiny-encoder").encode_texts(["red circle"]).shape == (1, 64)
    assert Familiarity.load(tmp_path / "tiny-base") != Familiarity.load(tmp_path / "tiny")
    before = (tmp_path / "tiny" / "model.safetensors").stat().st_mtime_ns
    make_checkpoints(tmp_path, [glances], [tasks], encoder_steps=2, familiar_videos=20, report=lines.append)
    assert (tmp_path / "tiny" / "model.safetensors").stat().st_mtime_ns == before
