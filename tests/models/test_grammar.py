from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.models.tiny_models import tokenizer
from videoreasoner.models.grammar import TokenTrie, event_grammar
from videoreasoner.models.prompt_encoder import PromptEncoder
from videoreasoner.prompts import Prompts
from videoreasoner.tasks import Task, event_text, parse_event

ENCODER = PromptEncoder(tokenizer(), Prompts())
GRAMMAR = event_grammar(ENCODER)
DURATION_S = 100.0
SEQUENCES = st.lists(st.lists(st.integers(0, 5), max_size=5), max_size=8)


def _walks(trie: TokenTrie, written: tuple[int, ...] = ()) -> list[tuple[int, ...]]:
    ways = trie.allowed(written)
    return [walk for token in ways for walk in _walks(trie, (*written, token))] if ways else [written]


def test_every_walk_is_one_of_the_5050_intervals_and_ends_the_turn() -> None:
    walks = _walks(GRAMMAR)
    assert all(walk[-1] == ENCODER.end_id and walk.count(ENCODER.end_id) == 1 for walk in walks)
    spans = {parse_event(ENCODER.decode(walk), DURATION_S) for walk in walks}
    assert None not in spans
    assert all(span is not None and 0 <= span.start_s < span.end_s <= DURATION_S for span in spans)
    assert len(walks) == len(spans) == 101 * 100 // 2


def test_what_training_teaches_can_be_written() -> None:
    for walk in random.Random(0).sample(_walks(GRAMMAR), 50):
        span = parse_event(ENCODER.decode(walk), DURATION_S)
        assert span is not None
        target = ENCODER.completion(Task.EVENT, event_text(span, DURATION_S))
        assert (*target, ENCODER.end_id) == walk


@given(SEQUENCES)
def test_allowed_is_what_follows_in_some_sequence(sequences: list[list[int]]) -> None:
    trie = TokenTrie(sequences)
    for sequence in sequences:
        for cut in range(len(sequence) + 1):
            start = sequence[:cut]
            follows = {s[cut] for s in sequences if s[:cut] == start and len(s) > cut}
            allowed = trie.allowed(start)
            assert set(allowed) == follows
            assert len(allowed) == len(follows)


def test_what_starts_no_sequence_is_refused() -> None:
    trie = TokenTrie([(1, 2), (1, 3, 4)])
    for start in [(2,), (1, 4), (1, 2, 3)]:
        with pytest.raises(KeyError):
            trie.allowed(start)
