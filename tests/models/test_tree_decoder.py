"""A tree writes and scores together with others what it does alone."""

from __future__ import annotations

import pytest
import torch

from tests.models.test_decoding import CLIPS, ENCODER, FAMILIES, QUESTIONS, Case
from videoreasoner.models.prompt_tree import ROOT
from videoreasoner.models.tree_decoder import Leaf, TreeDecoder
from videoreasoner.tasks import Task

GRIDS = [CLIPS[0], [(1, 4, 4)], CLIPS[1]]
ASKED = [QUESTIONS[0], QUESTIONS[1], QUESTIONS[0]]


@pytest.fixture(params=list(FAMILIES))
def cases(request: pytest.FixtureRequest) -> list[Case]:
    """Three trunks of different lengths over one model."""
    made = [Case(request.param, grids) for grids in GRIDS]
    for case in made[1:]:
        case.model = made[0].model
    return made


def decoder_of(cases: list[Case]) -> TreeDecoder:
    trunks, features = [case.trunk for case in cases], [case.features for case in cases]
    return TreeDecoder(cases[0].model, trunks, features, (ENCODER.end_id,), cases[0].banned)


def nodes_of(question: str) -> list[tuple[tuple[int, ...], int]]:
    return [(ENCODER.question(question), ROOT), *((ENCODER.prefix(task), 0) for task in (Task.EVENT, Task.ANSWER))]


def leaves_alone(decoder: TreeDecoder, question: str, count: int) -> list[list[int]]:
    decoder.add([nodes_of(question)])
    return decoder.generate([Leaf(1), Leaf(2)], count)


def test_each_tree_writes_what_it_writes_alone(cases: list[Case]) -> None:
    together = decoder_of(cases)
    assert together.add([nodes_of(question) for question in ASKED]) == [[0, 1, 2]] * 3
    expected = [leaves_alone(case.decoder(), question, 10) for case, question in zip(cases, ASKED, strict=True)]
    # In any order of leaves, and with a tree that has none.
    order = [(2, 1), (0, 2), (2, 2), (0, 1)]
    written = together.generate([Leaf(node, tree=tree) for tree, node in order], 10)
    assert written == [expected[tree][node - 1] for tree, node in order]
    assert len({tuple(tokens) for tokens in written}) > 2


def test_each_tree_grows_by_itself(cases: list[Case]) -> None:
    """Nodes for some trees now and for others later leave gaps in the cache, which no token sees."""
    together = decoder_of(cases)
    together.add([nodes_of(ASKED[0]), [], []])
    together.add([[], nodes_of(ASKED[1]), nodes_of(ASKED[2])])
    written = together.generate([Leaf(1, tree=tree) for tree in range(3)], 8)
    expected = [leaves_alone(case.decoder(), question, 8)[0] for case, question in zip(cases, ASKED, strict=True)]
    assert written == expected


def test_scores_together_equal_those_alone_and_leave_it_as_it_was(cases: list[Case]) -> None:
    together = decoder_of(cases)
    together.add([nodes_of(question) for question in ASKED])
    options = [ENCODER.text(text) for text in ("red", "a long and winding road")]
    columns = together.columns
    for tree, (case, question) in enumerate(zip(cases, ASKED, strict=True)):
        decoder = case.decoder()
        decoder.add([nodes_of(question)])
        for mine, alone in zip(together.score(options, 2, tree), decoder.score(options, 2), strict=True):
            torch.testing.assert_close(mine, alone, atol=2e-5, rtol=1e-5)
        assert together.columns == columns
    expected = [leaves_alone(case.decoder(), question, 6)[1] for case, question in zip(cases, ASKED, strict=True)]
    assert together.generate([Leaf(2, tree=tree) for tree in range(3)], 6) == expected
