from __future__ import annotations

import numpy as np
import pytest
import torch

from experiments.tiny.lessons import LessonKind, LessonSettings, lesson, lesson_batch
from experiments.tiny.make import PATCHES, PROMPTS, SETTINGS, new_model
from experiments.tiny.pretraining import target_logits
from experiments.tiny.vocabulary import learn_tokenizer
from videoreasoner.models.event_tokens import extend_tokenizer
from videoreasoner.models.prompt_encoder import PromptEncoder
from videoreasoner.synthetic.world import WorldSettings, held_out, random_world
from videoreasoner.tasks import parse_event

KINDS: tuple[LessonKind, ...] = ("glances", "captions", "tasks", "moments")
LESSONS = LessonSettings(SETTINGS.sampling, PATCHES)


@pytest.fixture(scope="module")
def encoder() -> PromptEncoder:
    tokenizer = learn_tokenizer(PROMPTS)
    extend_tokenizer(tokenizer)
    return PromptEncoder(tokenizer, PROMPTS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_is_a_function_of_its_seed_and_number(encoder: PromptEncoder, kind: LessonKind) -> None:
    one, same = (lesson_batch(encoder, LESSONS, kind, 3, 5, 7) for _ in range(2))
    other = lesson_batch(encoder, LESSONS, kind, 3, 5, 8)
    assert torch.equal(one.labels, same.labels)
    assert torch.equal(one.inputs["pixel_values_videos"], same.inputs["pixel_values_videos"])
    assert not torch.equal(one.inputs["pixel_values_videos"], other.inputs["pixel_values_videos"])


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_of_videos_equals_the_videos_one_by_one(encoder: PromptEncoder, kind: LessonKind) -> None:
    from experiments.tiny.lessons import batch

    rng = np.random.default_rng(3)
    lessons = [lesson(rng, encoder, random_world(rng, WorldSettings()), LESSONS, kind) for _ in range(3)]
    pad = encoder.tokenizer.pad_token_id
    model = new_model(encoder.tokenizer).eval()
    with torch.no_grad():
        together = target_logits(model, batch(lessons, pad))
        apart = torch.cat([target_logits(model, batch([item], pad)) for item in lessons])
    torch.testing.assert_close(together, apart, atol=2e-4, rtol=1e-4)


def test_targets_say_what_the_video_shows(encoder: PromptEncoder) -> None:
    rng = np.random.default_rng(0)
    seen: set[str] = set()
    for _ in range(30):
        world = random_world(rng, WorldSettings())
        made = lesson(rng, encoder, world, LESSONS, "tasks")
        for node, kind in made.targets:
            text = encoder.decode(made.packed.tree.tokens[node])
            seen.add(kind)
            if kind == "event":
                span = parse_event(text, 1.0)
                assert span is not None
                assert any(
                    abs(e.start - span.start_s) < 0.011 and abs(e.end - span.end_s) < 0.011 for e in world.events
                )
            elif kind == "key_elements":
                assert any(f"{e.color} {e.shape}" in text for e in world.events)
            elif kind.startswith("detail"):
                assert text in {e.detail for e in world.events}
    assert {"event", "key_elements", "plain", "detail", "plain_focused", "detail_focused"} <= seen


def test_every_event_is_asked_for_and_only_the_words_differ(encoder: PromptEncoder) -> None:
    rng = np.random.default_rng(2)
    evenly = LessonSettings(SETTINGS.sampling, PATCHES, WorldSettings((2, 3)), focused_share=0.0)
    for _ in range(10):
        world = random_world(rng, evenly.world)
        made = lesson(rng, encoder, world, evenly, "moments")
        tree = made.packed.tree
        located = [node for node, kind in made.targets if kind == "event"]
        assert len(located) == len(world.events)
        for node, event in zip(located, world.events, strict=True):
            span = parse_event(encoder.decode(tree.tokens[node]), 1.0)
            assert span is not None
            assert span.start_s == pytest.approx(event.start, abs=0.011)
            question = encoder.decode(tree.tokens[tree.parents[tree.parents[node]]])
            assert event.shape in question or f"{event.color} object" in question


def test_no_lesson_shows_a_held_out_combination(encoder: PromptEncoder) -> None:
    rng = np.random.default_rng(1)
    for _ in range(200):
        for event in random_world(rng, WorldSettings()).events:
            assert not held_out(event.color, event.shape, event.detail)


def test_the_task_formats_appear_in_no_lesson_of_the_base_model(encoder: PromptEncoder) -> None:
    events = {encoder.ids["<|event_start|>"], encoder.ids["<|event_end|>"]}
    for kind in ("glances", "captions"):
        ids = lesson_batch(encoder, LESSONS, kind, 8, 0, 0).inputs["input_ids"]
        assert not events & set(ids.flatten().tolist())
        text = encoder.tokenizer.decode(ids[0].tolist())
        assert not any(prefix.strip() in text for prefix in PROMPTS.prefixes.values())
