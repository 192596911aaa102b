import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    AutoImageProcessor,
    AutoTokenizer,
    BertConfig,
    CLIPConfig,
    CLIPModel,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModel,
    PreTrainedTokenizerFast,
    Siglip2Config,
    Siglip2Model,
    SiglipConfig,
    SiglipModel,
)

from videoreasoner.errors import CheckpointError, MissingExtraError, SettingError
from videoreasoner.retrieval.encoder import TransformersEncoder, load_encoder

CONTEXT = 24
START, END = "<|startoftext|>", "<|endoftext|>"
WORDS = ["red circle", "a", "digit", "the quick brown fox jumps over the lazy dog again"]
TOWER = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    # The default of 0.02 leaves a random model nearly blind to its input.
    "initializer_range": 0.3,
}
VISION = {**TOWER, "image_size": 32, "patch_size": 8}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Models this small only wait for each other's threads on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def byte_vocabulary():
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    return [*alphabet, *(letter + "</w>" for letter in alphabet)]


def clip_tokenizer():
    vocabulary = [*byte_vocabulary(), "re", "red</w>", START, END]
    return CLIPTokenizer(
        vocab={piece: index for index, piece in enumerate(vocabulary)},
        merges=[("r", "e"), ("re", "d</w>")],
    )


def language_model_tokenizer():
    """Like Qwen2's: byte-level, adds no end token, pads on the left."""
    vocabulary = [*sorted(pre_tokenizers.ByteLevel.alphabet()), START, END]
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(vocabulary)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=END, padding_side="left")


def unigram_tokenizer():
    """Like SigLIP's: its special tokens are ordinary pieces of the vocabulary."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(letter, -5.0) for letter in "abcdefghijklmnopqrstuvwxyz</>"]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def save(folder, model, tokenizer, **image_settings):
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(image_settings))
    return folder


def clip_model(tokenizer, **text):
    torch.manual_seed(0)
    end = tokenizer.convert_tokens_to_ids(END)
    return CLIPModel(
        CLIPConfig(
            text_config={
                **TOWER,
                "vocab_size": len(tokenizer),
                "max_position_embeddings": CONTEXT,
                "eos_token_id": end,
                **text,
            },
            vision_config=VISION,
            projection_dim=24,
        )
    ).eval()


CLIP_IMAGES = {
    "image_processor_type": "CLIPImageProcessor",
    "size": {"shortest_edge": 32},
    "crop_size": {"height": 32, "width": 32},
}


def save_clip(folder):
    tokenizer = clip_tokenizer()
    return save(folder, clip_model(tokenizer), tokenizer, **CLIP_IMAGES)


def save_siglip(folder):
    torch.manual_seed(0)
    tokenizer = unigram_tokenizer()
    text = {
        **TOWER,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": CONTEXT,
        "projection_size": 32,
    }
    model = SiglipModel(SiglipConfig(text_config=text, vision_config=VISION))
    return save(
        folder,
        model,
        tokenizer,
        image_processor_type="SiglipImageProcessor",
        size={"height": 32, "width": 32},
    )


def save_siglip2(folder):
    torch.manual_seed(0)
    tokenizer = unigram_tokenizer()
    text = {
        **TOWER,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": CONTEXT,
        "projection_size": 32,
    }
    vision = {**TOWER, "patch_size": 8, "num_patches": 16}
    model = Siglip2Model(Siglip2Config(text_config=text, vision_config=vision))
    return save(
        folder,
        model,
        tokenizer,
        image_processor_type="Siglip2ImageProcessor",
        patch_size=8,
        max_num_patches=16,
    )


MAKERS = {"clip": save_clip, "siglip": save_siglip, "siglip2": save_siglip2}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("encoders")
    return {kind: make(root / kind) for kind, make in MAKERS.items()}


@pytest.fixture(scope="module", params=MAKERS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def encoder(folders, kind):
    return load_encoder(folders[kind])


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, size=(5, 40, 56, 3), dtype=np.uint8)


@pytest.fixture
def clip_folder(folders, tmp_path):
    return Path(shutil.copytree(folders["clip"], tmp_path / "clip"))


def unit(features):
    return torch.nn.functional.normalize(features, dim=-1)


MODELS = {"clip": CLIPModel, "siglip": SiglipModel, "siglip2": Siglip2Model}


def test_texts_are_those_of_transformers(folders, kind, encoder):
    folder = folders[kind]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer(
        WORDS,
        truncation=True,
        max_length=CONTEXT,
        padding="longest" if kind == "clip" else "max_length",
        return_tensors="pt",
    )
    if kind != "clip":
        # The original models know no mask, and the published checkpoints turn it off.
        del inputs["attention_mask"]
    inputs.pop("token_type_ids", None)
    with torch.inference_mode():
        expected = MODELS[kind].from_pretrained(folder).get_text_features(**inputs).pooler_output
    actual = encoder.encode_texts(WORDS)
    torch.testing.assert_close(actual, unit(expected), atol=1e-5, rtol=0)
    assert actual.dtype == torch.float32
    assert (actual @ actual.T - torch.eye(len(WORDS))).abs().triu(1).max() < 0.999


def test_images_are_those_of_transformers(folders, kind, encoder, images):
    folder = folders[kind]
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    inputs = processor(images=list(images), return_tensors="pt")
    with torch.inference_mode():
        expected = MODELS[kind].from_pretrained(folder).get_image_features(**inputs).pooler_output
    actual = encoder.encode_images(images)
    torch.testing.assert_close(actual, unit(expected), atol=1e-5, rtol=0)
    assert actual.dtype == torch.float32
    assert encoder.name == str(folder)


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_batch_size_changes_nothing(encoder, images, monkeypatch, batch_size):
    texts, frames = encoder.encode_texts(WORDS), encoder.encode_images(images)
    monkeypatch.setattr(encoder, "batch_size", batch_size)
    torch.testing.assert_close(encoder.encode_texts(WORDS), texts, atol=1e-5, rtol=0)
    torch.testing.assert_close(encoder.encode_images(images), frames, atol=1e-5, rtol=0)


def test_rows_have_unit_length(encoder, images):
    for features in (encoder.encode_texts([*WORDS, "", "  "]), encoder.encode_images(images)):
        torch.testing.assert_close(features.norm(dim=-1), torch.ones(len(features)))


def test_nothing_gives_no_rows_of_the_right_width(encoder, images):
    width = encoder.encode_texts(["a"]).shape[1]
    assert encoder.encode_texts([]).shape == (0, width)
    assert encoder.encode_images(images[:0]).shape == (0, width)


def test_frames_three_pixels_high_are_still_rgb(encoder):
    tall = np.random.default_rng(1).integers(0, 256, size=(1, 6, 6, 3), dtype=np.uint8)
    flat = tall.reshape(1, 3, 12, 3)
    assert encoder.encode_images(flat).shape == encoder.encode_images(tall).shape
    colours = [[255, 0, 0], [0, 0, 255]]
    red, blue = (np.full((1, 3, 3, 3), colour, dtype=np.uint8) for colour in colours)
    big = np.full((1, 32, 32, 3), colours[0], dtype=np.uint8)
    assert (encoder.encode_images(red) @ encoder.encode_images(big).T).item() > 0.9999
    assert (encoder.encode_images(red) @ encoder.encode_images(blue).T).item() < 0.9999


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((2, 8, 8, 3), dtype=np.float32),
        np.zeros((8, 8, 3), dtype=np.uint8),
        np.zeros((2, 3, 8, 8), dtype=np.uint8),
        np.zeros((2, 0, 8, 3), dtype=np.uint8),
    ],
)
def test_other_images_are_refused(encoder, images):
    with pytest.raises(ValueError, match="images"):
        encoder.encode_images(images)


def test_one_string_is_not_a_list_of_letters(encoder):
    with pytest.raises(TypeError, match="sequence"):
        encoder.encode_texts("circle")


def test_long_texts_are_cut_not_refused(encoder):
    long = encoder.encode_texts(["red circle " * 50])
    torch.testing.assert_close(long, encoder.encode_texts(["red circle " * 60]))


SPECIAL = {"clip": [END, START, END.upper()], "siglip": ["</s>", "<pad>"]}
SPECIAL["siglip2"] = SPECIAL["siglip"]


def test_words_never_become_special_tokens(encoder, kind):
    for special in SPECIAL[kind]:
        row = encoder._token_ids(f"a {special} b")
        control = [token for token in row if token in encoder._forbidden_ids]
        start = [encoder.tokenizer.bos_token_id] if kind == "clip" else []
        assert control == [*start, encoder.tokenizer.eos_token_id]
        assert row[-1] == control[-1]
        # What follows still counts: an end token would hide it from CLIP.
        seen = encoder.encode_texts([f"a {special} b", f"a {special} c"])
        assert (seen[0] - seen[1]).abs().max() > 1e-4


def test_siglip_reads_lower_case(encoder, kind):
    if kind != "clip":
        torch.testing.assert_close(encoder.encode_texts(["Red"]), encoder.encode_texts(["red"]))


def test_unknown_letters_stay_unknown_pieces(folders):
    encoder = load_encoder(folders["siglip"])
    assert encoder.tokenizer.unk_token_id in encoder._token_ids("a 7 b")


def test_template(clip_folder):
    plain = load_encoder(clip_folder)
    (clip_folder / "videoreasoner_encoder.json").write_text('{"template": "my {}!"}')
    wrapped = load_encoder(clip_folder)
    assert (plain.template, wrapped.template) == ("{}", "my {}!")
    words = ["cat", "{0} %s {}"]
    expected = plain.encode_texts([f"my {word}!" for word in words])
    torch.testing.assert_close(wrapped.encode_texts(words), expected)


@pytest.mark.parametrize("text", ["{", "[]", '{"template": 3}', '{"template": "none"}', '{"template": "{} {}"}'])
def test_bad_template_is_refused(clip_folder, text):
    (clip_folder / "videoreasoner_encoder.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"videoreasoner_encoder\.json"):
        load_encoder(clip_folder)


def test_clip_with_the_tokenizer_of_a_language_model(tmp_path):
    tokenizer = language_model_tokenizer()
    model = clip_model(tokenizer)
    encoder = load_encoder(save(tmp_path, model, tokenizer, **CLIP_IMAGES))
    actual = encoder.encode_texts(["cat", "red circle"])
    end = tokenizer.eos_token_id
    for row, word in zip(actual, ["cat", "red circle"], strict=True):
        ids = torch.tensor([[*tokenizer(word)["input_ids"], end]])
        with torch.inference_mode():
            expected = model.get_text_features(input_ids=ids).pooler_output
        torch.testing.assert_close(row, unit(expected)[0], atol=1e-5, rtol=0)
    assert encoder._token_ids(f"a{END}").count(end) == 0
    long = encoder._clip_inputs([encoder._token_ids("long " * 20)])
    assert long["input_ids"].shape == (1, CONTEXT)
    assert long["input_ids"][0, -1] == end


def test_old_clip_configs_name_the_wrong_end_token(tmp_path):
    tokenizer = language_model_tokenizer()
    model = clip_model(tokenizer, eos_token_id=2)
    encoder = load_encoder(save(tmp_path, model, tokenizer, **CLIP_IMAGES))
    with torch.inference_mode():
        ids = torch.tensor([[*tokenizer("cat")["input_ids"], tokenizer.eos_token_id]])
        expected = model.get_text_features(input_ids=ids).pooler_output
    actual = encoder.encode_texts(["cat", "a longer one"])[:1]
    torch.testing.assert_close(actual, unit(expected), atol=1e-5, rtol=0)


def test_relative_and_home_paths(folders, monkeypatch):
    folder = folders["clip"]
    monkeypatch.chdir(folder.parent)
    monkeypatch.setenv("HOME", str(folder.parent))
    for spec in ("clip", "./clip", "~/clip", str(folder)):
        assert load_encoder(spec).name == spec


def refused(spec, *needles):
    with pytest.raises(CheckpointError) as caught:
        load_encoder(spec)
    message = str(caught.value)
    assert "\n" not in message
    assert str(spec) in message
    for needle in needles:
        assert needle in message


def test_folders_that_are_no_encoder(tmp_path):
    refused(tmp_path, "config.json", "clip")
    refused(tmp_path / "missing", "no such folder")
    refused("./missing", "no such folder")
    (tmp_path / "file").touch()
    refused(tmp_path / "file", "this is a file")
    (tmp_path / "config.json").write_text("{")
    refused(tmp_path)


def test_other_families_are_refused(tmp_path):
    BertConfig().save_pretrained(tmp_path)
    refused(tmp_path, "bert", "clip, siglip, siglip2", "open_clip:")


def test_ids_out_of_reach(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    refused("nobody/there-is-no-such-encoder", "Hugging Face hub")
    refused("not an id at all")


def test_pickled_weights_are_refused(clip_folder):
    (clip_folder / "model.safetensors").unlink()
    refused(clip_folder, "safetensors")
    model = CLIPModel(CLIPConfig.from_pretrained(clip_folder))
    torch.save(model.state_dict(), clip_folder / "pytorch_model.bin")
    refused(clip_folder, "safetensors")


def test_damaged_weights_are_refused(clip_folder):
    (clip_folder / "model.safetensors").write_bytes(b"not a tensor in sight")
    refused(clip_folder, "safetensors")


def test_half_a_model_is_refused(clip_folder):
    config = CLIPVisionConfig(**VISION)
    torch.manual_seed(0)
    both_towers = (clip_folder / "config.json").read_text()
    CLIPVisionModel(config).save_pretrained(clip_folder)
    (clip_folder / "config.json").write_text(both_towers)
    refused(clip_folder, "weights", "files of one model")


@pytest.mark.parametrize("name", ["preprocessor_config.json", "tokenizer.json"])
def test_missing_files_are_named(clip_folder, name):
    (clip_folder / name).unlink()
    refused(clip_folder, name)


def test_files_of_another_encoder_are_found_out(clip_folder, folders):
    shutil.copy(folders["siglip2"] / "preprocessor_config.json", clip_folder)
    refused(clip_folder, "preprocessor_config.json")


@pytest.mark.parametrize("defect", [AttributeError, TypeError])
def test_a_defect_of_ours_is_not_blamed_on_the_folder(clip_folder, monkeypatch, defect):
    def broken(self, prompt):
        raise defect("ours")

    monkeypatch.setattr(TransformersEncoder, "_token_ids", broken)
    with pytest.raises(defect, match="ours"):
        load_encoder(clip_folder)


def test_the_shipped_encoder_is_found_by_name():
    assert load_encoder("tiny-encoder").name == "tiny-encoder"


def test_devices_that_are_not_there(folders):
    for device in ("toaster", "cuda:99"):
        with pytest.raises(SettingError, match=device):
            load_encoder(folders["clip"], device)


def test_torchvision_that_does_not_fit(folders, monkeypatch):
    """transformers looks for torchvision as soon as it is there, so a broken one stops it."""

    class Transformers:
        def __getattr__(self, name):
            try:
                raise RuntimeError("operator torchvision::nms does not exist")
            except RuntimeError as error:
                raise ModuleNotFoundError("Could not import module") from error

    monkeypatch.setitem(sys.modules, "transformers", Transformers())
    with pytest.raises(MissingExtraError, match=r"nms.*uninstall torchvision"):
        load_encoder(folders["clip"])


def test_a_checkpoint_that_names_an_encoder_does_not_make_us_fetch_it(monkeypatch):
    asked = []

    def snapshot_download(name, local_files_only, **_):
        asked.append((name, local_files_only))
        raise OSError("no network here")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    for name in ("org/encoder", "open_clip:hf-hub:org/encoder"):
        with pytest.raises(CheckpointError, match=f"--encoder {name}"):
            load_encoder(name, is_asked_for=False)
    assert asked == [("org/encoder", True)] * 2
    with pytest.raises(CheckpointError):
        load_encoder("openai/clip-x", is_asked_for=False)
    assert asked[-1] == ("openai/clip-x", False)
    load_encoder("tiny-encoder", is_asked_for=False)
