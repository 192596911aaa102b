"""Every bad folder is a CheckpointError of one line that names it; no pickled file is ever opened."""

from __future__ import annotations

import json
import pickle
import shutil
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import huggingface_hub
import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration, Qwen2VLForConditionalGeneration
from transformers.integrations import deepspeed

from tests.models.tiny_models import random_qwen2_5_vl, random_qwen2_vl, tokenizer
from videoreasoner.errors import CheckpointError, SettingError
from videoreasoner.models.checkpoint import SHIPPED, find_folder, load_checkpoint, read_config, save_checkpoint
from videoreasoner.prompts import Prompts
from videoreasoner.settings import SETTINGS_FILE, Settings
from videoreasoner.tasks import EVENT_TOKENS
from videoreasoner.video.patches import PatchSettings

SETTINGS = Settings(frame_budget=12, min_pixels=784, max_pixels=3136, prompts=Prompts(answer_style="words"))
PATCHES = PatchSettings(min_pixels=784, max_pixels=3136, image_mean=(0.1, 0.2, 0.3))
FAMILIES = {
    "qwen2_vl": (random_qwen2_vl, Qwen2VLForConditionalGeneration),
    "qwen2_5_vl": (random_qwen2_5_vl, Qwen2_5_VLForConditionalGeneration),
}


def _save(folder: Path, family: str = "qwen2_vl", event_tokens: bool = True) -> Any:
    model = FAMILIES[family][0]()
    save_checkpoint(folder, model, tokenizer(event_tokens), SETTINGS, PATCHES)
    return model


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "model"
    _save(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return shutil.copytree(saved, tmp_path / "copy")


@pytest.fixture(autouse=True)
def _pickles_stay_shut(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a pickled file was opened")

    for module, name in [(torch, "load"), (pickle, "load"), (pickle, "loads"), (pickle, "Unpickler")]:
        monkeypatch.setattr(module, name, refuse)


def _logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.arange(2, 40)[None]).logits


@pytest.mark.parametrize("family", FAMILIES)
def test_round_trip_through_this_package_and_through_stock_transformers(family: str, tmp_path: Path) -> None:
    model = _save(tmp_path, family)
    loaded = load_checkpoint(tmp_path, "cpu")
    stock = FAMILIES[family][1].from_pretrained(tmp_path).eval()
    words = AutoTokenizer.from_pretrained(tmp_path)
    assert torch.equal(_logits(model), _logits(loaded.model))
    assert torch.equal(_logits(model), _logits(stock))
    assert words.get_vocab() == loaded.encoder.tokenizer.get_vocab() == tokenizer().get_vocab()
    assert loaded.settings == SETTINGS
    assert loaded.encoder.prompts == SETTINGS.prompts
    assert loaded.patches == PATCHES
    assert loaded.tokens_per_second == (2.0 if family == "qwen2_5_vl" else None)
    assert loaded.name == str(tmp_path)
    assert not loaded.model.training
    assert loaded.encoder.end_id in loaded.end_ids


def test_tokens_per_second_is_what_the_config_says(folder: Path, tmp_path: Path) -> None:
    _save(tmp_path / "five", "qwen2_5_vl")
    path = tmp_path / "five" / "config.json"
    config = json.loads(path.read_text())
    config["vision_config"]["tokens_per_second"] = 5
    path.write_text(json.dumps(config))
    assert load_checkpoint(tmp_path / "five", "cpu").tokens_per_second == 5.0


def test_a_plain_folder_gets_default_settings_and_the_event_tokens(tmp_path: Path) -> None:
    model = _save(tmp_path, event_tokens=False)
    (tmp_path / SETTINGS_FILE).unlink()
    before = model.get_input_embeddings().weight.detach()
    loaded = load_checkpoint(tmp_path, "cpu")
    assert loaded.settings == Settings()
    ids = [loaded.encoder.ids[token] for token in EVENT_TOKENS]
    after = loaded.model.get_input_embeddings().weight.detach()
    kept = torch.ones(len(before), dtype=torch.bool)
    kept[ids] = False
    assert torch.equal(after[kept], before[kept])
    assert torch.isfinite(after[ids]).all()
    assert not torch.isclose(after[ids], before[ids]).all(dim=1).any()


def test_what_may_never_be_written_covers_placeholders_and_padding_rows(saved: Path) -> None:
    loaded = load_checkpoint(saved, "cpu")
    rows = loaded.model.get_output_embeddings().weight.shape[0]
    known = loaded.encoder.tokenizer.get_vocab()
    assert {known["<|video_pad|>"], known["<|image_pad|>"], rows - 1, len(known)} <= set(loaded.banned_ids)
    assert not set(loaded.banned_ids) & {*loaded.end_ids, *(known[token] for token in EVENT_TOKENS)}


def test_a_folder_of_ours_says_where_turns_end(folder: Path, tmp_path: Path) -> None:
    """Base weights end texts only; an engine that knows no more than the folder would write on behind an answer."""
    path = folder / "generation_config.json"
    text_end = load_checkpoint(folder, "cpu").encoder.tokenizer.convert_tokens_to_ids("<|endoftext|>")
    path.write_text(json.dumps({**json.loads(path.read_text()), "eos_token_id": text_end}))
    base = load_checkpoint(folder, "cpu")
    base.model.save_pretrained(tmp_path / "trained")
    saved = json.loads((tmp_path / "trained" / "generation_config.json").read_text())
    assert saved["eos_token_id"] == sorted([text_end, base.encoder.end_id])


def test_overrides_replace_settings_and_none_leaves_them(saved: Path) -> None:
    changed = load_checkpoint(saved, "cpu", frame_budget=4, dense_share=None, max_pixels=1568).settings
    assert changed == SETTINGS.changed(frame_budget=4, max_pixels=1568)
    for wrong in ({"frame_budget": 1}, {"dense_share": 2.0}, {"no_such_setting": 3}):
        with pytest.raises(SettingError, match=next(iter(wrong))):
            load_checkpoint(saved, "cpu", **wrong)


@pytest.mark.parametrize("device", ["nonsense", "cuda:99", "", "cpu:x"])
def test_a_device_that_is_not_there_is_refused(saved: Path, device: str) -> None:
    with pytest.raises(SettingError, match="device") as caught:
        load_checkpoint(saved, device)
    assert "\n" not in str(caught.value)


def test_a_model_is_loaded_whole_where_zero_3_is_set_up(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers would ask DeepSpeed to split it meanwhile, which is not even installed here."""

    class Stage3:
        def is_zero3(self) -> bool:
            return True

    held = Stage3()
    monkeypatch.setattr(deepspeed, "_hf_deepspeed_config_weak_ref", weakref.ref(held))
    assert deepspeed.is_deepspeed_zero3_enabled()
    loaded = load_checkpoint(saved, "cpu").model
    # The trainer finds it set up as it was.
    assert deepspeed.is_deepspeed_zero3_enabled()
    deepspeed.unset_hf_deepspeed_config()
    plain = load_checkpoint(saved, "cpu").model
    for (name, one), (_, other) in zip(loaded.state_dict().items(), plain.state_dict().items(), strict=True):
        assert torch.equal(one, other), name
    for (name, one), (_, other) in zip(loaded.named_buffers(), plain.named_buffers(), strict=True):
        assert one.dtype == other.dtype == torch.float32, name


def test_a_defect_of_ours_is_not_blamed_on_the_folder(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as reaching for a private name that another version of transformers does not have."""
    monkeypatch.delattr(deepspeed, "_hf_deepspeed_config_weak_ref")
    with pytest.raises(AttributeError, match="_hf_deepspeed_config_weak_ref"):
        load_checkpoint(saved, "cpu")


def test_shipped_checkpoints_are_found_by_name_and_folders_by_path(saved: Path) -> None:
    assert find_folder("tiny") == SHIPPED / "tiny"
    assert find_folder(saved) == saved
    assert find_folder(str(saved)) == saved
    assert read_config(saved)["model_type"] == "qwen2_vl"


@pytest.mark.parametrize("name", ["tiny", "tiny-base", "tiny-encoder"])
def test_shipped_checkpoints_have_a_card(name: str) -> None:
    metadata = huggingface_hub.metadata_load(SHIPPED / name / "README.md")
    assert metadata is not None
    assert metadata["license"] == "apache-2.0"
    assert {path.name for path in SHIPPED.iterdir() if path.is_dir()} == {"tiny", "tiny-base", "tiny-encoder"}


def _refused(name: Path | str, *words: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(name, "cpu")
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 700
    for word in (str(name), *words):
        assert word in message


def test_paths_that_are_no_folder_are_refused(tmp_path: Path, saved: Path) -> None:
    _refused(tmp_path, "config.json")
    _refused(saved / "config.json", "this is a file")
    _refused(tmp_path / "missing", "no such folder", "tiny")
    _refused("no-such-name", "no such folder", "Qwen/Qwen2-VL-2B-Instruct")
    _refused("a/b/c", "no such folder")


def test_an_unknown_hub_id_is_refused_when_offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # Read from the environment when the library was imported.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    _refused("nobody/no-such-model", "network")
    _refused("not an/id!", "Hugging Face hub")


@pytest.mark.parametrize(
    ("model_type", "device", "budget", "word"),
    [("qwen3_vl", "cpu", 8, "Qwen3-VL"), ("qwen2_vl", "cpu", 0, "frame_budget"), ("qwen2_vl", "cuda:99", 8, "device")],
)
def test_what_cannot_work_downloads_no_weights(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    saved: Path,
    model_type: str,
    device: str,
    budget: int,
    word: str,
) -> None:
    wanted: list[str] = []

    def snapshot_download(name: str, allow_patterns: list[str], **options: Any) -> str:
        wanted.extend(allow_patterns)
        config = {**json.loads((saved / "config.json").read_text()), "model_type": model_type}
        (tmp_path / "config.json").write_text(json.dumps(config))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises((CheckpointError, SettingError), match=word):
        load_checkpoint("Qwen/Qwen9", device, frame_budget=budget)
    assert not any("safetensors" in pattern for pattern in wanted)
    model_type = "qwen2_vl"
    with pytest.raises(CheckpointError, match=r"no \.safetensors weights"):
        load_checkpoint("Qwen/Qwen9", "cpu")
    assert "*.safetensors" in wanted


def _change_config(**values: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return change


def _write(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(content) and None


def _other_shapes(folder: Path) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["text_config"]["intermediate_size"] *= 2
    path.write_text(json.dumps(config))


def _missing_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    del weights[next(name for name in weights if "mlp" in name)]
    save_file(weights, path, {"format": "pt"})


def _cut_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def _only_pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _pickled_shard(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    names = dict.fromkeys(load_file(folder / "other.safetensors"), "pytorch_model.bin")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")


def _broken_index(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    (folder / "model.safetensors.index.json").write_bytes(b"[]")


def _no_tokenizer(folder: Path) -> None:
    for path in [*folder.glob("tokenizer*"), *folder.glob("vocab*"), *folder.glob("merges*")]:
        path.unlink()


def test_code_in_the_folder_does_not_run(folder: Path) -> None:
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    config |= {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Evil", None]}}
    path.write_text(json.dumps(config))
    (folder / "evil.py").write_text("raise SystemExit('the code of the folder ran')\n")
    assert load_checkpoint(folder, "cpu").settings == SETTINGS


SPOILED: dict[str, tuple[Callable[[Path], None], str]] = {
    "unsupported family": (_change_config(model_type="llava"), "llava"),
    "no family": (_change_config(model_type=None), "None"),
    "Qwen3-VL": (_change_config(model_type="qwen3_vl"), "Qwen3-VL is not supported"),
    "Qwen3-VL MoE": (_change_config(model_type="qwen3_vl_moe"), "Qwen3-VL is not supported"),
    "config is no JSON": (_write("config.json", b"{"), "not JSON"),
    "config is a list": (_write("config.json", b"[]"), "no mapping"),
    "config is no text": (_write("config.json", b"\xff\xfe\x00"), "not JSON"),
    "config without parts": (_write("config.json", b'{"model_type": "qwen2_vl"}'), "not a model configuration"),
    "config with a wrong part": (_change_config(text_config="x"), "not a model configuration"),
    "shapes do not fit": (_other_shapes, "cannot be loaded"),
    "weights are missing": (_missing_weights, "files hold"),
    "weights are cut": (_cut_weights, "cannot be loaded"),
    "weights are empty": (_write("model.safetensors", b""), "cannot be loaded"),
    "weights are random bytes": (_write("model.safetensors", bytes(range(256)) * 8), "cannot be loaded"),
    "weights are pickled": (_only_pickled, "pickled weights are refused"),
    "a shard is pickled": (_pickled_shard, "pickled weights are refused"),
    "index is broken": (_broken_index, "no mapping"),
    "no tokenizer": (_no_tokenizer, "token"),
    "tokenizer is no JSON": (_write("tokenizer.json", b"{"), "not JSON"),
    "settings are no JSON": (_write(SETTINGS_FILE, b"{"), "not JSON"),
    "settings are no text": (_write(SETTINGS_FILE, b"\xff"), "not JSON"),
    "setting unknown": (_write(SETTINGS_FILE, b'{"frame_bugdet": 8}'), "frame_bugdet"),
    "setting wrong": (_write(SETTINGS_FILE, b'{"frame_budget": 0}'), "frame_budget"),
    "processor broken": (_write("video_preprocessor_config.json", b"{"), "processor configuration"),
    "processor absurd": (_write("video_preprocessor_config.json", b'{"patch_size": 0}'), "patch_size"),
}


@pytest.mark.parametrize("name", SPOILED)
def test_a_spoiled_folder_is_refused_in_one_line(name: str, folder: Path) -> None:
    spoil, word = SPOILED[name]
    spoil(folder)
    _refused(folder, word)


def test_threads_may_load_at_the_same_time() -> None:
    with ThreadPoolExecutor(4) as pool:
        loaded = list(pool.map(lambda _: load_checkpoint("tiny", "cpu"), range(8)))
    alone = _logits(load_checkpoint("tiny", "cpu").model)
    assert all(torch.equal(_logits(one.model), alone) for one in loaded)


def test_attention_is_one_of_the_known_names(saved: Path) -> None:
    plain = load_checkpoint(saved, "cpu").model
    eager = load_checkpoint(saved, "cpu", attn_implementation="eager").model
    assert eager.config.vision_config._attn_implementation == "eager"
    assert plain.config.text_config._attn_implementation == eager.config.text_config._attn_implementation
    for name in ("org/repo", "flash_attention_2", ""):
        with pytest.raises(SettingError, match="attn_implementation"):
            load_checkpoint(saved, "cpu", attn_implementation=name)


def test_revision_and_cache_go_to_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, saved: Path) -> None:
    asked: list[Any] = []

    def snapshot_download(name: str, allow_patterns: list[str], revision: str, local_files_only: bool) -> str:
        asked.append((name, revision, local_files_only))
        return str(saved)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    load_checkpoint("org/model", "cpu", revision="v2", local_files_only=True)
    assert set(asked) == {("org/model", "v2", True)}
    with pytest.raises(SettingError, match="revision v2:"):
        load_checkpoint(saved, "cpu", revision="v2")
