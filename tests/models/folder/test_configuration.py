"""What a configuration may say: types, ranges, and nothing that loads more than the folder's own weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from videoreasoner.errors import CheckpointError
from videoreasoner.models.checkpoint import SHIPPED
from videoreasoner.models.folder.configuration import build_config, read_generation_config, refuse_additions

PATH = Path("folder/config.json")


def content(name: str = "tiny") -> dict[str, Any]:
    return dict(json.loads((SHIPPED / name / "config.json").read_text()))


@pytest.mark.parametrize(
    ("part", "changes"),
    [
        ("text_config", {"rms_norm_eps": 0}),
        ("text_config", {"num_hidden_layers": 10**6}),
        ("text_config", {"vocab_size": 10**9}),
        ("text_config", {"hidden_size": "128"}),
        ("text_config", {"num_attention_heads": 3}),
        ("text_config", {"hidden_act": "org/repo"}),
        ("text_config", {"rope_parameters": {"rope_type": "default", "mrope_section": [8, 8, 8]}}),
        ("vision_config", {"depth": True}),
        ("vision_config", {"temporal_patch_size": 1}),
        ("vision_config", {"hidden_size": 64}),
    ],
)
def test_a_field_that_makes_no_sense_is_named(part: str, changes: dict[str, Any]) -> None:
    config = content()
    config[part] |= changes
    with pytest.raises(CheckpointError) as caught:
        build_config(config, PATH)
    assert str(PATH) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_fields_that_decide_nothing_or_load_code_do_not_reach_transformers() -> None:
    added = {
        "num_labels": 10**9, "return_dict": False, "auto_map": {"AutoModel": "evil.Evil"},
        "_attn_implementation": "org/repo", "attn_implementation": "org/repo",
    }  # fmt: skip
    for name in ("tiny", "tiny-encoder"):
        config = content(name)
        plain = build_config(config, PATH)
        strange = {**config, **added, "text_config": {**config["text_config"], **added}}
        assert build_config(strange, PATH).to_dict() == plain.to_dict()
        assert plain.num_labels == 2


def test_adapters_and_quantised_weights_are_refused(tmp_path: Path) -> None:
    refuse_additions(tmp_path, {})
    with pytest.raises(CheckpointError, match="quantised"):
        refuse_additions(tmp_path, {"quantization_config": {"quant_method": "awq"}})
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "org/repo"}')
    with pytest.raises(CheckpointError, match="adapters"):
        refuse_additions(tmp_path, {})


def test_the_generation_config_is_that_of_the_folder_or_made_from_the_model(tmp_path: Path) -> None:
    config = build_config(content(), PATH)
    assert read_generation_config(SHIPPED / "tiny", config).eos_token_id is not None
    assert read_generation_config(tmp_path, config).max_new_tokens is None
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": "x"}')
    with pytest.raises(CheckpointError, match="eos_token_id"):
        read_generation_config(tmp_path, config)
