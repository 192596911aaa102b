"""Decoding on the tree equals transformers' own generate and forward on separate rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from transformers.generation import LogitsProcessor, LogitsProcessorList

from tests.models.tiny_models import random_qwen2_5_vl, random_qwen2_vl, tokenizer
from videoreasoner.models.grammar import TokenTrie, event_grammar
from videoreasoner.models.positions import ClipTokens, temporal_indices
from videoreasoner.models.prompt_encoder import PromptEncoder
from videoreasoner.models.tree_decoder import Leaf, TreeDecoder
from videoreasoner.prompts import Prompts
from videoreasoner.tasks import Task, parse_event

FAMILIES = {"qwen2_vl": (random_qwen2_vl, None), "qwen2_5_vl": (random_qwen2_5_vl, 2.0)}
ENCODER = PromptEncoder(tokenizer(), Prompts())
# Grids at least as long on a side as they have pairs: there stock transformers and the weights' rule agree.
CLIPS = [[(2, 8, 4)], [(3, 4, 12), (1, 4, 4)]]


class Case:
    """A model, clips with their patches, and the trunk over them."""

    def __init__(self, family: str, grids: Sequence[tuple[int, int, int]]) -> None:
        make, self.tokens_per_second = FAMILIES[family]
        self.model = make()
        generator = torch.Generator().manual_seed(1)
        self.grids = torch.tensor(grids)
        patches = int(self.grids.prod(dim=1).sum())
        self.pixels = torch.randn(patches, 3 * 2 * 14 * 14, generator=generator)
        # One second between pairs: what transformers assumes when it is told nothing.
        clips = [
            ClipTokens(h // 2, w // 2, temporal_indices(list(range(t)), self.tokens_per_second)) for t, h, w in grids
        ]
        self.trunk = ENCODER.trunk(clips)
        with torch.no_grad():
            outputs = self.model.model.get_video_features(self.pixels, self.grids, return_dict=True)
        self.features = torch.cat(list(outputs.pooler_output))
        self.banned = (self.model.config.video_token_id, self.model.config.image_token_id)

    def decoder(self) -> TreeDecoder:
        return TreeDecoder(self.model, [self.trunk], [self.features], (ENCODER.end_id,), self.banned)

    def row(self, *pieces: Sequence[int]) -> dict[str, torch.Tensor]:
        """The same prompt as a stock caller would build it."""
        ids = torch.cat([self.trunk.input_ids, *(torch.tensor(p, dtype=torch.long) for p in pieces)])[None]
        return {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "mm_token_type_ids": (ids == self.trunk.video_token_id).long() * 2,
            "pixel_values_videos": self.pixels,
            "video_grid_thw": self.grids,
        }

    def generate(self, count: int, *pieces: Sequence[int], grammar: TokenTrie | None = None) -> list[int]:
        row = self.row(*pieces)
        length = row["input_ids"].shape[1]
        self.model.model.rope_deltas = None
        processors = LogitsProcessorList([_Only(grammar, length)] if grammar else [])
        output = self.model.generate(
            **row,
            max_new_tokens=count,
            do_sample=False,
            eos_token_id=ENCODER.end_id,
            pad_token_id=ENCODER.end_id,
            suppress_tokens=list(self.banned),
            logits_processor=processors,
        )
        return output[0, length:].tolist()


class _Only(LogitsProcessor):
    def __init__(self, grammar: TokenTrie, length: int) -> None:
        self.grammar, self.length = grammar, length

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        allowed = self.grammar.allowed(input_ids[0, self.length :].tolist())
        masked = torch.full_like(scores, -torch.inf)
        masked[:, allowed] = scores[:, allowed]
        return masked


@pytest.fixture(params=[(f, c) for f in FAMILIES for c in range(len(CLIPS))], ids=str)
def case(request: pytest.FixtureRequest) -> Case:
    family, clips = request.param
    return Case(family, CLIPS[clips])


QUESTIONS = ["What is it?", "A much longer question about this video: which of the two comes first, and why?"]


def test_branches_decoded_together_equal_generate(case: Case) -> None:
    decoder = case.decoder()
    questions = [ENCODER.question(q) for q in QUESTIONS]
    [nodes] = decoder.add([[(tokens, -1) for tokens in questions]])
    leaves, expected = [], []
    for node, question in zip(nodes, questions, strict=True):
        for task in (Task.EVENT, Task.KEY_ELEMENTS):
            prefix = ENCODER.prefix(task)
            [[branch]] = decoder.add([[(prefix, node)]])
            leaves.append(Leaf(branch))
            expected.append(case.generate(12, question, prefix))
    assert decoder.generate(leaves, 12) == expected


def test_leaves_that_end_early_do_not_disturb_the_others(case: Case) -> None:
    [[node]] = case.decoder().add([[(ENCODER.question(QUESTIONS[0]), -1)]])
    decoder = case.decoder()
    [[node]] = decoder.add([[(ENCODER.question(QUESTIONS[0]), -1)]])
    short = TokenTrie([(5, ENCODER.end_id), (9, ENCODER.end_id)])
    free, ended = decoder.generate([Leaf(node), Leaf(node, short)], 10)
    assert len(ended) == 2
    assert free == case.generate(10, ENCODER.question(QUESTIONS[0]))


def test_event_grammar_equals_constrained_generate_and_is_always_readable(case: Case) -> None:
    grammar = event_grammar(ENCODER)
    decoder = case.decoder()
    question, prefix = ENCODER.question(QUESTIONS[1]), ENCODER.prefix(Task.EVENT)
    [[node]] = decoder.add([[((*question, *prefix), -1)]])
    [written] = decoder.generate([Leaf(node, grammar)], 40)
    assert written == case.generate(40, question, prefix, grammar=grammar)
    span = parse_event(ENCODER.decode(written), 50.0)
    assert span is not None
    assert 0 <= span.start_s < span.end_s <= 50


def test_scores_equal_the_log_probs_of_separate_rows(case: Case) -> None:
    decoder = case.decoder()
    question = ENCODER.question(QUESTIONS[0])
    [[node]] = decoder.add([[(question, -1)]])
    options = [ENCODER.text(t) for t in ("red", "a long and winding road", "7")]
    cached = decoder.columns
    scores = decoder.score(options, node)
    assert decoder.columns == cached
    for option, score in zip(options, scores, strict=True):
        row = case.row(question, option)
        case.model.model.rope_deltas = None
        with torch.no_grad():
            logits = case.model(**row).logits[0].log_softmax(-1)
        first = row["input_ids"].shape[1] - len(option)
        expected = logits[torch.arange(first - 1, first + len(option) - 1), torch.tensor(option)]
        torch.testing.assert_close(score, expected, atol=2e-5, rtol=1e-5)


def test_the_trunk_serves_the_next_question_as_if_it_were_the_first(case: Case) -> None:
    decoder = case.decoder()
    for question in (QUESTIONS[1], QUESTIONS[0]):
        [[node]] = decoder.add([[(ENCODER.question(question), -1)]])
        written = decoder.generate([Leaf(node)], 8)
        decoder.forget()
    assert decoder.columns == len(case.trunk)
    assert written == [case.generate(8, ENCODER.question(QUESTIONS[0]))]


def test_visual_and_padding_tokens_are_never_written() -> None:
    case = Case("qwen2_vl", CLIPS[0])
    decoder = case.decoder()
    with torch.no_grad():
        weight = case.model.get_output_embeddings().weight
        # Make the video token the most likely one everywhere.
        [[node]] = decoder.add([[(ENCODER.question(QUESTIONS[0]), -1)]])
        before = decoder.generate([Leaf(node)], 1)[0][0]
        weight[list(case.banned)] = weight[before] * 3
    decoder = case.decoder()
    [[node]] = decoder.add([[(ENCODER.question(QUESTIONS[0]), -1)]])
    assert not set(decoder.generate([Leaf(node)], 20)[0]) & set(case.banned)


def test_every_sampled_stream_is_its_own() -> None:
    """`pick` sees which leaves its rows belong to, so a caller can give each leaf its own random stream."""
    case = Case("qwen2_vl", CLIPS[0])

    def sample(leaves: Sequence[int], all_leaves: int) -> dict[int, list[int]]:
        decoder = case.decoder()
        [[node]] = decoder.add([[(ENCODER.question(QUESTIONS[0]), -1)]])
        streams = [np.random.default_rng([3, n]) for n in leaves]

        def pick(logits: torch.Tensor, live: Sequence[int]) -> torch.Tensor:
            chosen = [int(streams[i].choice(row.numel(), p=_normal(row))) for row, i in zip(logits, live, strict=True)]
            return torch.tensor(chosen)

        written = decoder.generate([Leaf(node) for _ in leaves], 6, pick)
        return dict(zip(leaves, written, strict=True))

    together = sample([0, 1, 2], 3)
    assert {n: sample([n], 3)[n] for n in (0, 1, 2)} == together


def _normal(row: torch.Tensor) -> np.ndarray:
    p = row.double().softmax(-1).numpy()
    return p / p.sum()
