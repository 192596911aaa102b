import json
import shutil
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tests.retrieval.test_encoder import CONTEXT, WORDS, refused, unit
from videoreasoner.errors import MissingExtraError
from videoreasoner.retrieval.encoder import load_encoder


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, size=(5, 40, 56, 3), dtype=np.uint8)


def test_open_clip_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(MissingExtraError) as caught:
        load_encoder("open_clip:ViT-B-32/openai")
    assert 'pip install "videoreasoner[retrieval]"' in str(caught.value)


@pytest.mark.parametrize(
    "line",
    [
        "raise RuntimeError('operator torchvision::nms does not exist')",
        "import a_module_that_is_not_there",
    ],
)
def test_open_clip_that_cannot_start(monkeypatch, tmp_path, line):
    (tmp_path / "open_clip.py").write_text(line)
    monkeypatch.delitem(sys.modules, "open_clip", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingExtraError, match=r"cannot start \(.*(nms|a_module)") as caught:
        load_encoder("open_clip:ViT-B-32/openai")
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def open_clip():
    try:
        import open_clip
    except (ImportError, RuntimeError, AttributeError) as error:
        pytest.skip(f"open_clip does not start here: {error}")
    return open_clip


@pytest.fixture(scope="module")
def open_clip_folder(open_clip, tmp_path_factory):
    folder = tmp_path_factory.mktemp("open_clip")
    torch.manual_seed(0)
    text = {"context_length": CONTEXT, "vocab_size": 49408, "width": 32, "heads": 4, "layers": 2}
    vision = {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8}
    config = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": text}
    model = open_clip.model.CLIP(**config)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic"}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}))
    return folder


def test_open_clip_folder(open_clip, open_clip_folder, images):
    spec = f"local-dir:{open_clip_folder}"
    encoder = load_encoder(f"open_clip:{spec}")
    model, transform = open_clip.create_model_from_pretrained(spec)
    tokens = open_clip.get_tokenizer(spec)(WORDS)
    pixels = torch.stack([transform(Image.fromarray(image)) for image in images])
    with torch.inference_mode():
        texts, frames = unit(model.encode_text(tokens)), unit(model.encode_image(pixels))
    torch.testing.assert_close(encoder.encode_texts(WORDS), texts, atol=1e-5, rtol=0)
    torch.testing.assert_close(encoder.encode_images(images), frames, atol=1e-5, rtol=0)
    encoder.batch_size = 2
    torch.testing.assert_close(encoder.encode_images(images), frames, atol=1e-5, rtol=0)
    assert encoder.encode_images(images[:0]).shape == (0, 24)
    for words in ("a <end_of_text> b", "a &lt;end_of_text&gt; b"):
        row = encoder.tokenizer([words])[0].tolist()
        assert row.count(encoder.tokenizer.eot_token_id) == 1


def test_open_clip_refusals(open_clip, open_clip_folder, tmp_path):
    refused("open_clip:ViT-B-32/no-such-weights", "openai")
    refused("open_clip:ViT-B-32", "weights")
    refused("open_clip:NoSuchModel/openai", "MODEL/PRETRAINED")
    refused(f"open_clip:local-dir:{tmp_path}", "safetensors")
    weights = open_clip_folder / "open_clip_model.safetensors"
    shutil.copy(weights, tmp_path)
    refused(f"open_clip:local-dir:{tmp_path}", "open_clip_config.json")
