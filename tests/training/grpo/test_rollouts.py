"""Sampling on the tree: exact probabilities, streams of their own, nothing computed for show."""

from __future__ import annotations

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.models.tiny_models import random_qwen2_5_vl, random_qwen2_vl
from tests.training.random_examples import ENCODER, PAD, random_example
from videoreasoner.models.tree_batch import TreeBatch, encode_clip, token_log_probs
from videoreasoner.tasks import Task
from videoreasoner.training.grpo.rollouts import NucleusSampler, Sampling, nucleus, sample, stream

FAMILIES = {"qwen2_vl": (random_qwen2_vl, None), "qwen2_5_vl": (random_qwen2_5_vl, 2.0)}
SAMPLING = Sampling(generations=4, temperature=1.3, top_p=0.9, max_new_tokens=6, seed=3)
ENDS = (ENCODER.end_id, 40, 41, 42, 43, 44)


@functools.cache
def model_of(family: str):
    return FAMILIES[family][0]()


def banned(model) -> tuple[int, ...]:
    beyond = range(len(ENCODER.tokenizer), model.config.get_text_config().vocab_size)
    return (model.config.video_token_id, model.config.image_token_id, *beyond)


def roll(model, example, sampling=SAMPLING, step=0, shared_prompt=True):
    features = encode_clip(model, example.patches)
    return sample(model, [example], [features], sampling, step, ENDS, banned(model), shared_prompt)[0]


def lay_out(examples, rollouts) -> TreeBatch:
    completions = [
        {task: [r.tokens for r in group if r.task is task] for task in example.prompt.prefixes}
        for example, group in zip(examples, rollouts, strict=True)
    ]
    return TreeBatch.from_prompts([example.prompt for example in examples], completions, PAD)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_was_sampled_has_the_updates_log_probs(family: str) -> None:
    """The ratio at the first inner step is one, for several examples in a batch of uneven trees."""
    model = model_of(family)
    per_second = FAMILIES[family][1]
    examples = [
        random_example(0, tokens_per_second=per_second),
        random_example(1, (3, 6, 4), (Task.ANSWER,), tokens_per_second=per_second),
        random_example(2, (1, 4, 4), tuple(Task), tokens_per_second=per_second),
    ]
    rollouts = [roll(model, example) for example in examples]
    batch = lay_out(examples, rollouts)
    with torch.no_grad():
        clips = batch.clip_inputs([example.patches for example in examples])
        again = token_log_probs(model, batch, clips, SAMPLING.temperature, banned(model))
    then = torch.cat([rollout.log_probs for group in rollouts for rollout in group])
    assert len({len(rollout.tokens) for group in rollouts for rollout in group}) > 1
    torch.testing.assert_close(torch.exp(again - then), torch.ones_like(then), rtol=0, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_leaves_do_not_depend_on_each_other(family: str) -> None:
    """Alone, together, with more tasks or more of them: each leaf writes the same."""
    model = model_of(family)
    together = {(r.task, r.number): r for r in roll(model, random_example(tasks=tuple(Task)))}
    alone = roll(model, random_example(tasks=tuple(Task)), shared_prompt=False)
    fewer = roll(model, random_example(tasks=(Task.ANSWER,)), Sampling(2, 1.3, 0.9, 6, 3))
    assert len(together) == len(alone) == 4 * len(Task)
    for one in alone + fewer:
        same = together[one.task, one.number]
        assert one.tokens == same.tokens
        torch.testing.assert_close(one.log_probs, same.log_probs, rtol=1e-4, atol=1e-5)
        assert one.finished == (one.tokens[-1] in ENDS) == same.finished
        assert len(one.tokens) <= 6
    assert len({rollout.tokens for rollout in alone}) > 6


@pytest.mark.parametrize("shared_prompt", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_examples_sampled_together_write_what_each_writes_alone(family: str, shared_prompt: bool) -> None:
    """Trunks, questions and prefixes of different lengths, and a query that ends before the others."""
    model, per_second = model_of(family), FAMILIES[family][1]
    examples = [
        random_example(0, tokens_per_second=per_second),
        random_example(1, (3, 6, 4), (Task.ANSWER,), tokens_per_second=per_second),
        random_example(2, (1, 4, 4), tuple(Task), tokens_per_second=per_second),
    ]
    assert len({len(example.prompt.trunk) for example in examples}) == 3
    features = [encode_clip(model, example.patches) for example in examples]
    together = sample(model, examples, features, SAMPLING, 0, ENDS, banned(model), shared_prompt)
    for example, found in zip(examples, together, strict=True):
        for mine, alone in zip(found, roll(model, example), strict=True):
            assert (mine.task, mine.number, mine.tokens) == (alone.task, alone.number, alone.tokens)
            torch.testing.assert_close(mine.log_probs, alone.log_probs, rtol=1e-4, atol=1e-5)


def test_streams_follow_from_their_names() -> None:
    names = [
        (s, step, row, task, g) for s in (0, 1) for step in (0, 1) for row in "ab" for task in Task for g in (0, 1)
    ]
    first = {name: torch.rand(2, generator=stream(*name)).tolist() for name in names}
    assert first == {name: torch.rand(2, generator=stream(*name)).tolist() for name in reversed(names)}
    assert len({tuple(values) for values in first.values()}) == len(names)
    # A row's id may hold what no encoding knows.
    assert stream(0, 0, "\ud800", Task.EVENT, 0).initial_seed() != stream(0, 0, "\ud801", Task.EVENT, 0).initial_seed()


def test_banned_ids_are_never_written() -> None:
    model = model_of("qwen2_vl")
    example = random_example()
    wide = Sampling(generations=16, temperature=50.0, top_p=1.0, max_new_tokens=12, seed=0)
    allowed = set(range(60, 90))
    vocabulary = model.config.get_text_config().vocab_size
    others = tuple(set(range(vocabulary)) - allowed)
    [written] = sample(model, [example], [encode_clip(model, example.patches)], wide, 0, (61,), others)
    tokens = {token for rollout in written for token in rollout.tokens}
    assert tokens <= allowed
    # Hot sampling over 30 ids reaches nearly all of them, so the rest was not missed by luck.
    assert len(tokens) > 20


def test_samples_follow_the_distribution() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 12, generator=generator) * 2
    count, temperature, top_p = 4000, 0.7, 0.8
    pick = NucleusSampler([stream(0, 0, "a", Task.EVENT, g) for g in range(count)], temperature, top_p)
    chosen = pick(logits.expand(count, -1), range(count))
    expected = nucleus((logits.double() / temperature).softmax(-1), top_p)[0]
    expected /= expected.sum()
    observed = torch.bincount(chosen, minlength=12) / count
    assert not observed[expected == 0].any()
    # Four standard errors of a share of 4,000 draws.
    assert (observed - expected).abs().max() < 4 * 0.5 / count**0.5
    log_probs = (logits / temperature).log_softmax(-1)[0]
    assert torch.equal(torch.tensor(pick.log_probs)[:, 0], log_probs[chosen])


@settings(max_examples=80)
@given(st.lists(st.floats(0.001, 1.0), min_size=1, max_size=8), st.floats(0.01, 1.0))
def test_the_nucleus_is_the_smallest_set_that_holds_top_p(weights: list[float], top_p: float) -> None:
    probabilities = torch.tensor([weights], dtype=torch.float64)
    probabilities /= probabilities.sum()
    kept = nucleus(probabilities, top_p)[0]
    inside = kept > 0
    assert torch.equal(kept[inside], probabilities[0][inside])
    assert kept.sum() >= top_p - 1e-9
    assert kept.sum() - kept[inside].min() < top_p + 1e-9
    if not inside.all():
        assert kept[inside].min() >= probabilities[0][~inside].max()


def test_a_clip_is_encoded_as_the_forward_pass_encodes_it() -> None:
    model = model_of("qwen2_vl")
    examples = [random_example(0), random_example(1, (2, 4, 4))]
    rollouts = [roll(model, example) for example in examples]
    batch = lay_out(examples, rollouts)
    features = [encode_clip(model, example.patches) for example in examples]
    patches, blank = [example.patches for example in examples], [torch.zeros_like(kept) for kept in features]
    with torch.no_grad():
        from_pixels, from_features, blind = (
            token_log_probs(model, batch, batch.clip_inputs(patches, kept), 1.0, banned(model))
            for kept in (None, features, blank)
        )
    torch.testing.assert_close(from_features, from_pixels, rtol=1e-5, atol=1e-5)
    assert (blind - from_pixels).abs().max() > 0.1
