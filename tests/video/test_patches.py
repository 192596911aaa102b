import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from videoreasoner.errors import CheckpointError, VideoError
from videoreasoner.video.patches import (
    MAX_ASPECT_RATIO,
    PatchSettings,
    patchify,
    resize,
    resized_size,
)

DATA = Path(__file__).parents[1] / "data"
CASES = json.loads((DATA / "video_processor.json").read_text())
SMALL = PatchSettings(min_pixels=28 * 28, max_pixels=4 * 28 * 28)


def conformance_settings(case):
    limits = case["size"]
    # Qwen3-VL limits the whole video, Qwen2-VL each frame.
    frames = case["frames"][0] if case["processor"] == "qwen3_vl" else 1
    return PatchSettings(
        patch_size=case["patch"],
        merge_size=case["merge"],
        temporal_patch_size=case["temporal"],
        min_pixels=limits["shortest_edge"] // frames,
        max_pixels=limits["longest_edge"] // frames,
        image_mean=tuple(case["mean"]),
        image_std=tuple(case["std"]),
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"case{case['case']}")
def test_patches_equal_those_of_transformers_bit_for_bit(case):
    name = f"case{case['case']}"
    config = conformance_settings(case)
    with np.load(DATA / "video_processor.npz") as data:
        patches = patchify(resize(data[f"{name}_frames"], config), config)
        assert np.array_equal(patches.pixel_values.numpy(), data[f"{name}_pixel_values"])
        assert [list(patches.grid)] == data[f"{name}_grid"].tolist()


@st.composite
def sizes(draw):
    short = draw(st.integers(1, 3000))
    long = min(int(short * draw(st.floats(1, MAX_ASPECT_RATIO))), 20_000)
    return draw(st.permutations([short, long]))


@st.composite
def geometries(draw):
    low = draw(st.integers(1, 300_000))
    return PatchSettings(
        patch_size=draw(st.sampled_from([14, 16])),
        merge_size=draw(st.sampled_from([1, 2])),
        min_pixels=low,
        max_pixels=draw(st.integers(low, 3_000_000)),
    )


@settings(deadline=None)
@given(sizes(), geometries())
def test_resized_size(size, config):
    height, width = size
    factor = config.factor
    new = resized_size(height, width, config)
    assert new == smart_resize(height, width, factor, config.min_pixels, config.max_pixels)
    assert all(side >= factor and side % factor == 0 for side in new)
    area = new[0] * new[1]
    rounded = round(height / factor) * round(width / factor) * factor**2
    # A side cannot shrink below one factor, nor grow by less than one.
    if rounded >= config.min_pixels and factor not in new:
        assert area <= config.max_pixels
    if rounded <= config.max_pixels:
        assert area >= config.min_pixels
    if config.min_pixels <= rounded <= config.max_pixels:
        assert area == rounded


# The published training: a minimum of 128 tokens above maxima of 80 (cold start) and 60 (GRPO).
@pytest.mark.parametrize(
    ("minimum", "maximum", "size", "tokens"),
    [
        (128, 80, (224, 224), 144),
        (128, 60, (224, 224), 49),
        (4, 80, (224, 224), 64),
        (128, 80, (480, 640), 70),
        (4, 80, (480, 640), 70),
        (128, 80, (720, 1280), 66),
        (128, 256, (720, 1280), 252),
    ],
)
def test_tokens_of_a_frame_under_the_published_limits(minimum, maximum, size, tokens):
    config = PatchSettings(min_pixels=minimum * 28 * 28, max_pixels=maximum * 28 * 28)
    height, width = resized_size(*size, config)
    assert height * width // 28**2 == tokens


@given(st.integers(28, 2000), st.integers(28, 2000), st.integers(4, 200), st.integers(4, 200))
def test_a_minimum_above_the_maximum_is_read_as_the_published_code_reads_it(height, width, minimum, maximum):
    limits = minimum * 28 * 28, maximum * 28 * 28
    config = PatchSettings(min_pixels=limits[0], max_pixels=limits[1])
    assert resized_size(height, width, config) == smart_resize(height, width, 28, *limits)


@pytest.mark.parametrize("size", [(1, 201), (2010, 10), (3, 10_000), (0, 10)])
def test_extreme_shapes_are_refused(size):
    with pytest.raises(VideoError, match=f"{size[1]}x{size[0]}"):
        resized_size(*size, SMALL)


def test_the_limit_of_the_aspect_ratio_itself_is_allowed():
    assert resized_size(10, 2000, SMALL) == smart_resize(10, 2000, 28, 28 * 28, 4 * 28 * 28)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 4), st.integers(20, 90), st.integers(20, 90), st.integers(0, 2**32 - 1))
def test_a_pair_does_not_depend_on_other_pairs(pairs, height, width, seed):
    frames = np.random.default_rng(seed).integers(0, 256, (2 * pairs, height, width, 3), np.uint8)
    whole = patchify(resize(frames, SMALL), SMALL)
    assert whole.grid[0] == pairs
    parts = [patchify(resize(frames[i : i + 2], SMALL), SMALL) for i in range(0, 2 * pairs, 2)]
    assert torch.equal(whole.pixel_values, torch.cat([part.pixel_values for part in parts]))


def test_memory_layout_does_not_matter():
    frames = np.random.default_rng(0).integers(0, 256, (4, 112, 112, 3), np.uint8)
    expected = patchify(resize(frames, SMALL), SMALL).pixel_values
    mirrored = np.ascontiguousarray(frames[:, :, ::-1])[:, :, ::-1]
    fortran = np.asfortranarray(frames)
    for same in (mirrored, fortran):
        assert torch.equal(patchify(resize(same, SMALL), SMALL).pixel_values, expected)


def test_frames_of_the_right_size_keep_their_pixels():
    frames = np.random.default_rng(0).integers(0, 256, (2, 56, 56, 3), np.uint8)
    assert np.array_equal(resize(frames, SMALL).permute(0, 2, 3, 1).numpy(), frames)


def test_each_patch_holds_its_own_pixels():
    config = PatchSettings(min_pixels=1, max_pixels=10**6, image_mean=(0.0, 0.0, 0.0), image_std=(1 / 255,) * 3)
    frames = np.random.default_rng(0).integers(0, 256, (4, 56, 84, 3), np.uint8)
    patches = patchify(resize(frames, config), config)
    assert patches.grid == (2, 4, 6)
    rows = iter(patches.pixel_values.reshape(-1, 3, 2, 14, 14).numpy())
    for t in range(0, 4, 2):
        for block_y in range(0, 56, 28):
            for block_x in range(0, 84, 28):
                for y in (block_y, block_y + 14):
                    for x in (block_x, block_x + 14):
                        cut = frames[t : t + 2, y : y + 14, x : x + 14]
                        assert np.allclose(next(rows), cut.transpose(3, 0, 1, 2), atol=1e-3)


def test_an_odd_number_of_frames_is_refused():
    with pytest.raises(ValueError, match="3 frames"):
        patchify(torch.zeros(3, 3, 28, 28, dtype=torch.uint8), SMALL)


LIMITS = {"min_pixels": 784, "max_pixels": 7840}


def test_settings_of_a_folder(tmp_path):
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({"patch_size": 16, "image_mean": [0.5] * 3, "image_std": [0.5] * 3})
    )
    found = PatchSettings.from_folder(tmp_path, **LIMITS)
    assert found == PatchSettings(patch_size=16, image_mean=(0.5,) * 3, image_std=(0.5,) * 3, **LIMITS)
    # The file for videos wins.
    (tmp_path / "video_preprocessor_config.json").write_text("{}")
    assert PatchSettings.from_folder(tmp_path, **LIMITS) == PatchSettings(**LIMITS)


def test_settings_of_a_processor_that_transformers_5_saved(tmp_path):
    path = tmp_path / "processor_config.json"
    image = {"patch_size": 16, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    path.write_text(json.dumps({"image_processor": image, "processor_class": "Qwen2VLProcessor"}))
    expected = PatchSettings(patch_size=16, image_mean=(0.5,) * 3, image_std=(0.5,) * 3, **LIMITS)
    assert PatchSettings.from_folder(tmp_path, **LIMITS) == expected
    path.write_text(json.dumps({"image_processor": image, "video_processor": {"patch_size": 14}}))
    assert PatchSettings.from_folder(tmp_path, **LIMITS) == PatchSettings(**LIMITS)
    path.write_text(json.dumps({"processor_class": "Qwen2VLProcessor"}))
    with pytest.raises(CheckpointError, match=r"processor_config\.json"):
        PatchSettings.from_folder(tmp_path, **LIMITS)


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"[]",
        b"\xff",
        b'{"patch_size": "x"}',
        b'{"patch_size": 0}',
        b'{"image_mean": 3}',
        b'{"image_mean": [0.5]}',
        b'{"image_std": [0.5, 0, 0.5]}',
        b'{"image_std": ["a", "b", "c"]}',
    ],
)
def test_a_broken_processor_file_is_named(tmp_path, content):
    (tmp_path / "preprocessor_config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"preprocessor_config\.json"):
        PatchSettings.from_folder(tmp_path, **LIMITS)


def test_a_folder_without_processor_files_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"no video_preprocessor_config\.json"):
        PatchSettings.from_folder(tmp_path, **LIMITS)
