"""Features that are filled as plans ask for them equal one call to the stock model on all patches at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.models.tiny_models import random_qwen2_5_vl, random_qwen2_vl
from tests.video.videos import RECIPES
from videoreasoner.models.clip_features import ClipFeatures, EncodedClip
from videoreasoner.models.positions import temporal_indices
from videoreasoner.spans import Span
from videoreasoner.utils.stopwatch import Stopwatch
from videoreasoner.video.patches import PatchSettings, patchify, resize
from videoreasoner.video.pyav.file import VideoFile
from videoreasoner.video.sampling import FramePlan, SamplingSettings, focus_plan, uniform_plan

FAMILIES = {"qwen2_vl": (random_qwen2_vl, None), "qwen2_5_vl": (random_qwen2_5_vl, 2.0)}
# Videos of 64 x 48 pixels become 3 x 3 tokens a frame; for Qwen2.5-VL that is more than one window.
PATCHES = PatchSettings(min_pixels=56 * 84, max_pixels=84 * 84)
TOKENS = 3 * 3
SAMPLING = SamplingSettings(frame_budget=16, sparse_rate_fps=8.0, dense_rate_fps=12.0)


class CountingVideo(VideoFile):
    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.asked: list[float] = []

    def iter_frames_at(self, times_s: Any, *options: Any) -> Iterator[tuple[float, np.ndarray]]:
        self.asked += list(times_s)
        return super().iter_frames_at(times_s, *options)


class Case:
    def __init__(self, family: str, path: Path) -> None:
        make, self.tokens_per_second = FAMILIES[family]
        self.model = make()
        self.path = path
        self.video_file = CountingVideo(path)
        self.pairs_seen: list[int] = []
        self.model.model.visual.register_forward_pre_hook(self._count, with_kwargs=True)
        self.features = self.fresh()
        self.uniform = uniform_plan(self.video_file.duration_s, SAMPLING)
        self.focus = focus_plan(self.video_file.duration_s, [Span(0.5, 0.9)], SAMPLING)

    def _count(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.pairs_seen.append(int(kwargs["grid_thw"][:, 0].sum()))

    def fresh(self) -> ClipFeatures:
        return ClipFeatures(self.model, self.video_file, PATCHES, self.tokens_per_second, Stopwatch())

    def stock(self, plan: FramePlan) -> torch.Tensor:
        """All frames of the plan through the model's own interface, in one call."""
        frames = VideoFile(self.path).frames_at(plan.times_s)
        patches = patchify(resize(frames.pixels, PATCHES), PATCHES)
        with torch.no_grad():
            output = self.model.model.get_video_features(
                patches.pixel_values, torch.tensor([patches.grid]), return_dict=True
            )
        return torch.cat(list(output.pooler_output))


@pytest.fixture(scope="module", params=["long gop, b-frames", "variable rate"])
def video_path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return RECIPES[request.param].make(tmp_path_factory.mktemp("videos"))


@pytest.fixture(params=FAMILIES)
def case(request: pytest.FixtureRequest, video_path: Path) -> Iterator[Case]:
    made = Case(request.param, video_path)
    with made.video_file:
        yield made


def _same(a: EncodedClip, b: EncodedClip) -> None:
    torch.testing.assert_close(a.features, b.features, atol=1e-6, rtol=1e-6)
    assert a.tokens == b.tokens
    assert a.frame_times_s == b.frame_times_s


def test_features_equal_one_stock_call_on_all_patches(case: Case) -> None:
    assert case.focus.dense.any()
    assert not case.focus.dense.all()
    for plan in (case.uniform, case.focus):
        clip = case.features.encode(plan)
        # Not to the last bit: the length of a matrix product decides how its sums are grouped.
        scale = float(clip.features.abs().max())
        torch.testing.assert_close(clip.features / scale, case.stock(plan) / scale, atol=1e-6, rtol=0)
        assert len(clip.features) == len(clip.tokens) == len(plan) * TOKENS
        assert clip.frame_times_s == tuple(case.video_file.frames_at(plan.times_s).times_s)


def test_a_pair_is_decoded_and_encoded_once(case: Case) -> None:
    for plan in (case.uniform, case.focus, case.uniform, case.focus):
        case.features.encode(plan)
    pairs = {tuple(pair) for plan in (case.uniform, case.focus) for pair in plan.pairs_s.tolist()}
    new = len(pairs) - len(case.uniform)
    assert 0 < new < len(case.focus)
    assert new == case.focus.dense.sum()
    assert case.pairs_seen == [len(case.uniform), new]
    assert sorted(case.video_file.asked) == sorted(time_s for pair in pairs for time_s in pair)
    assert case.features.pairs_encoded == len(pairs)
    assert case.features.frames_decoded == 2 * len(pairs)


def test_what_was_encoded_before_does_not_matter(case: Case) -> None:
    uniform, focus = case.features.encode(case.uniform), case.features.encode(case.focus)
    other = case.fresh()
    _same(other.encode(case.focus), focus)
    _same(other.encode(case.uniform), uniform)


def test_how_many_pairs_go_through_at_once_does_not_matter(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = case.features.encode(case.uniform)
    monkeypatch.setattr("videoreasoner.models.clip_features._PAIRS_AT_ONCE", 3)
    case.pairs_seen.clear()
    _same(case.fresh().encode(case.uniform), whole)
    assert max(case.pairs_seen) <= 3


def test_a_pair_that_a_plan_names_twice_is_encoded_once_and_used_twice(case: Case) -> None:
    pairs = np.repeat(case.uniform.pairs_s[:1], 2, axis=0)
    clip = case.features.encode(FramePlan(pairs, np.zeros(2, bool)))
    first, second = clip.features.chunk(2)
    assert case.pairs_seen == [1]
    assert torch.equal(first, second)


def test_temporal_positions_come_from_the_true_times(case: Case) -> None:
    for plan in (case.uniform, case.focus):
        clip = case.features.encode(plan)
        starts = clip.frame_times_s[::2]
        assert clip.tokens.temporal == temporal_indices(starts, case.tokens_per_second)
        if case.tokens_per_second is None:
            assert clip.tokens.temporal == tuple(range(len(plan)))
    shown = case.video_file.frame_times_s
    assert set(clip.frame_times_s) <= set(shown.tolist())


def test_uneven_times_move_the_positions_of_qwen2_5(video_path: Path) -> None:
    case = Case("qwen2_5_vl", video_path)
    times: Sequence[float] = case.video_file.frame_times_s.tolist()
    picks = [(0, 1), (2, 3), (len(times) - 2, len(times) - 1)]
    plan = FramePlan(np.array([[times[a], times[b]] for a, b in picks]), np.zeros(3, bool))
    # A hundred tokens a second, so that neighbouring frames differ.
    case.features.tokens_per_second = 100.0
    temporal = case.features.encode(plan).tokens.temporal
    assert temporal == tuple(int(100 * (times[a] - times[0]) + 1e-6) for a, _ in picks)
    assert temporal[2] - temporal[1] > temporal[1] - temporal[0]


def test_frames_decoded_ahead_are_used_and_others_are_handed_on(case: Case) -> None:
    others = np.array([0.31, float(case.uniform.times_s[0]), 0.62])
    handed = list(case.features.decode_ahead(case.uniform, others))
    expected = VideoFile(case.path).frames_at(np.sort(others))
    assert [time_s for time_s, _ in handed] == expected.times_s.tolist()
    assert all(np.array_equal(image, pixels) for (_, image), pixels in zip(handed, expected.pixels, strict=True))

    asked = len(case.video_file.asked)
    # One frame is wanted for both.
    assert asked == len({*case.uniform.times_s.tolist(), *others.tolist()}) + 1
    _same(case.features.encode(case.uniform), case.fresh().encode(case.uniform))
    assert len(case.video_file.asked) == asked + len(case.uniform.times_s)  # those of the fresh one
    # What is encoded is not decoded again for a plan that has it.
    assert len(list(case.features.decode_ahead(case.uniform, others[:1]))) == 1
    assert len(case.video_file.asked) == asked + len(case.uniform.times_s) + 1


def test_frames_that_are_handed_on_may_be_small_and_the_plan_s_stay_large(case: Case) -> None:
    others = np.array([0.31, float(case.uniform.times_s[0]), 0.62])
    handed = list(case.features.decode_ahead(case.uniform, others, 12))
    expected = VideoFile(case.path).frames_at(np.sort(others), short_side=12)
    assert [time_s for time_s, _ in handed] == expected.times_s.tolist()
    assert all(np.array_equal(image, pixels) for (_, image), pixels in zip(handed, expected.pixels, strict=True))
    _same(case.features.encode(case.uniform), case.fresh().encode(case.uniform))
