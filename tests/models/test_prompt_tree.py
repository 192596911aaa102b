import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.models.tiny_models import random_qwen2_5_vl, random_qwen2_vl, tokenizer
from videoreasoner.models.positions import ClipTokens, temporal_indices
from videoreasoner.models.prompt_tree import ROOT, PromptTree, Trunk, collate

VIDEO, PAD = 10, 0
TOKENS = st.lists(st.integers(11, 50), min_size=1, max_size=4).map(tuple)
CLIPS = st.builds(
    ClipTokens,
    st.integers(1, 2),
    st.integers(1, 2),
    st.integers(1, 4).map(lambda n: tuple(range(n))),
)


@st.composite
def trees(draw):
    parts = draw(st.lists(st.one_of(TOKENS, CLIPS), min_size=1, max_size=4))
    tree = PromptTree(Trunk(tuple(parts), VIDEO))
    for node in range(draw(st.integers(0, 7))):
        assert tree.add(draw(TOKENS), draw(st.integers(ROOT, node - 1))) == node
    return tree


def is_ancestor_or_self(tree, candidate, node):
    while node != candidate and node != ROOT:
        node = tree.parents[node]
    return node == candidate


@settings(max_examples=80, deadline=None)
@given(trees())
def test_a_token_sees_its_ancestors_and_what_precedes_it_in_its_node(tree):
    packed = tree.pack()
    owner = packed.owner.tolist()
    expected = [
        [is_ancestor_or_self(tree, theirs, mine) and column <= row for column, theirs in enumerate(owner)]
        for row, mine in enumerate(owner)
    ]
    assert packed.ancestor_mask().tolist() == expected


@settings(max_examples=80, deadline=None)
@given(trees())
def test_what_a_token_sees_is_its_separate_row(tree):
    packed = tree.pack()
    mask = packed.ancestor_mask()
    for node in range(len(tree.tokens)):
        seen = mask[packed.end(node)]
        ids, positions = tree.row(node)
        assert torch.equal(packed.input_ids[seen], ids)
        assert torch.equal(packed.position_ids[:, seen], positions)
    ids, positions = tree.row(ROOT)
    assert torch.equal(packed.input_ids[mask[packed.end(ROOT)]], ids)
    assert torch.equal(tree.trunk.positions[0], positions)


@settings(max_examples=80, deadline=None)
@given(trees())
def test_each_token_is_predicted_by_the_one_before_it_in_its_row(tree):
    packed = tree.pack()
    mask = packed.ancestor_mask()
    for node, tokens in enumerate(tree.tokens):
        seen = mask[packed.end(node)].nonzero()[:, 0].tolist()
        assert packed.predictors(node).tolist() == seen[-len(tokens) - 1 : -1]
        start = packed.starts[node]
        assert tuple(packed.input_ids[start : start + len(tokens)].tolist()) == tokens
        assert packed.next_position[node] == int(packed.position_ids[0, packed.end(node)]) + 1


@given(trees())
def test_visual_tokens_stand_where_the_clips_are(tree):
    expected = [isinstance(p, ClipTokens) for p in tree.trunk.parts for _ in range(len(p))]
    assert tree.trunk.visual.tolist() == expected
    assert len(tree.trunk) == len(expected) == len(tree.trunk.input_ids)
    assert (tree.trunk.input_ids == VIDEO).tolist() == expected


@settings(max_examples=60, deadline=None)
@given(st.lists(trees(), min_size=1, max_size=4))
def test_collate_pads_without_leaking(some):
    packed = [tree.pack() for tree in some]
    batch = collate(packed, PAD)
    length = max(map(len, packed))
    causal = length - batch["attention_mask"].shape[2]
    assert batch["attention_mask"].shape == (len(some), 1, length - causal, length)
    assert causal <= min(len(tree.trunk) for tree in some)
    for i, tree in enumerate(packed):
        count = len(tree)
        # What has no row is causal.
        mask = torch.cat([torch.ones(causal, length, dtype=torch.bool).tril(), batch["attention_mask"][i, 0]])
        assert torch.equal(batch["input_ids"][i, :count], tree.input_ids)
        assert torch.equal(batch["position_ids"][:, i, :count], tree.position_ids)
        assert torch.equal(mask[:count, :count], tree.ancestor_mask())
        assert not mask[:count, count:].any()
        assert torch.equal(mask[count:], torch.eye(length, dtype=torch.bool)[count:])
        assert (batch["input_ids"][i, count:] == PAD).all()
        types = batch["mm_token_type_ids"][i]
        assert torch.equal(types[: len(some[i].trunk)] == 2, some[i].trunk.visual)
        assert int(types.sum()) == 2 * int(some[i].trunk.visual.sum())


def test_impossible_nodes_are_refused():
    tree = PromptTree(Trunk(((1,),), VIDEO))
    with pytest.raises(ValueError, match="at least one token"):
        tree.add(())
    for parent in (-2, 0, 1):
        with pytest.raises(ValueError, match="not in the tree"):
            tree.add((2,), parent)
    tree.add((2,))
    with pytest.raises(ValueError, match="trunk"):
        tree.pack().predictors(ROOT)


PATCH_VALUES = 3 * 2 * 14 * 14
FAMILIES = {"qwen2_vl": random_qwen2_vl, "qwen2_5_vl": random_qwen2_5_vl}


@functools.cache
def model_of(family):
    return FAMILIES[family]()


def words(count, generator):
    return tuple(torch.randint(20, 480, (count,), generator=generator).tolist())


def video_tree(family, seed, grids):
    """An uneven tree of depth 3 over random clips, with the patches and grids that belong to it."""
    generator = torch.Generator().manual_seed(seed)
    video_id = tokenizer().convert_tokens_to_ids("<|video_pad|>")
    parts, patches = [words(4, generator)], []
    for t, h, w in grids:
        # Uneven times, longer than the clip's sides.
        times = [0.7 * i**1.5 for i in range(t)]
        temporal = temporal_indices(times, 2.0 if family == "qwen2_5_vl" else None)
        parts += [ClipTokens(h // 2, w // 2, temporal), words(2, generator)]
        patches.append(torch.randn(t * h * w, PATCH_VALUES, generator=generator))
    tree = PromptTree(Trunk(tuple(parts), video_id))
    branch = tree.add(words(3, generator))
    other = tree.add(words(1, generator))
    tree.add(words(4, generator), branch)
    inner = tree.add(words(2, generator), branch)
    tree.add(words(1, generator), inner)
    tree.add(words(3 + seed, generator), inner)
    tree.add(words(2, generator), other)
    return tree, torch.cat(patches), torch.tensor(grids)


ONE_CLIP = [[4, 4, 6]]
TWO_CLIPS = [[3, 4, 4], [2, 6, 6]]


def log_probs(logits, ids):
    return logits.log_softmax(-1).gather(-1, ids[:, None])[:, 0]


def packed_log_probs(model, trees, patches, grids):
    """For each tree, the log-probs of each node's tokens, all from one forward."""
    packed = [tree.pack() for tree in trees]
    pad = tokenizer().pad_token_id
    logits = model(**collate(packed, pad), pixel_values_videos=patches, video_grid_thw=grids, use_cache=False).logits
    return [
        [log_probs(logits[i, one.predictors(node)], torch.tensor(tokens)) for node, tokens in enumerate(tree.tokens)]
        for i, (tree, one) in enumerate(zip(trees, packed, strict=True))
    ]


def separate_log_probs(model, tree, patches, grids):
    """The same from one ordinary causal row per node."""
    results = []
    for node, tokens in enumerate(tree.tokens):
        ids, positions = tree.row(node)
        logits = model(
            input_ids=ids[None],
            position_ids=positions[:, None],
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            mm_token_type_ids=(ids[None] == tree.trunk.video_token_id).long() * 2,
            pixel_values_videos=patches,
            video_grid_thw=grids,
            use_cache=False,
        ).logits[0]
        results.append(log_probs(logits[-len(tokens) - 1 : -1], torch.tensor(tokens)))
    return results


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("grids", [ONE_CLIP, TWO_CLIPS], ids=["one clip", "two clips"])
def test_the_packed_row_equals_separate_rows(family, grids):
    model = model_of(family)
    tree, patches, grid = video_tree(family, 0, grids)
    with torch.no_grad():
        [packed] = packed_log_probs(model, [tree], patches, grid)
        separate = separate_log_probs(model, tree, patches, grid)
        [blind] = packed_log_probs(model, [tree], torch.zeros_like(patches), grid)
    for mine, theirs in zip(packed, separate, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-4)
    # Were the clip ignored, the equality above would prove nothing about it.
    assert (torch.cat(packed) - torch.cat(blind)).abs().max() > 0.1


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_of_trees_equals_batches_of_one(family):
    model = model_of(family)
    made = [video_tree(family, seed, g) for seed, g in enumerate([ONE_CLIP, TWO_CLIPS, [[1, 4, 4]]])]
    with torch.no_grad():
        together = packed_log_probs(
            model,
            [tree for tree, _, _ in made],
            torch.cat([patches for _, patches, _ in made]),
            torch.cat([grid for _, _, grid in made]),
        )
        for mine, (tree, patches, grid) in zip(together, made, strict=True):
            [alone] = packed_log_probs(model, [tree], patches, grid)
            torch.testing.assert_close(torch.cat(mine), torch.cat(alone), rtol=1e-5, atol=1e-4)


def gradients(model, results):
    """Gradients of a loss that weighs every token differently."""
    model.zero_grad()
    flat = torch.cat(results)
    (flat * torch.linspace(-1.0, 2.0, len(flat))).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("family", FAMILIES)
def test_all_gradients_equal_those_of_separate_rows(family):
    model = model_of(family)
    tree, patches, grid = video_tree(family, 0, TWO_CLIPS)
    mine = gradients(model, packed_log_probs(model, [tree], patches, grid)[0])
    theirs = gradients(model, separate_log_probs(model, tree, patches, grid))
    model.zero_grad()
    assert mine.keys() == theirs.keys() == dict(model.named_parameters()).keys()
    for name, expected in theirs.items():
        assert (mine[name] - expected).norm() <= 1e-5 * expected.norm(), name
