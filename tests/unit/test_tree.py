"""The token tree: masks, paths and batches against the unrolled samples."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from llmrec.token_tree import IGNORE, TreeBuilder, ancestor_mask, collate, subtree_ends

tokens = st.lists(st.integers(0, 3), min_size=2, max_size=8)
samples = st.lists(
    tokens.flatmap(lambda ids: st.tuples(st.just(ids), st.integers(1, len(ids) - 1))), min_size=1
)


def unrolled(cases):
    """Every (path, label) that the samples learn, one by one."""
    return sorted((ids[:depth], ids[depth]) for ids, scored in cases for depth in range(scored, len(ids)))


def build(cases):
    builder = TreeBuilder()
    for ids, scored in cases:
        builder.add(ids, scored)
    return builder.build()


@given(samples)
def test_tree_learns_exactly_what_the_unrolled_samples_learn(cases):
    assert sorted(build(cases).paths()) == unrolled(cases)


@given(samples)
def test_mask_shows_ancestors_and_self_only(cases):
    tree = build(cases)
    mask = tree.mask()
    depth = mask.sum(axis=1) - 1
    assert (depth == tree.depth).all()
    assert mask.diagonal().all()
    for i in range(len(tree)):
        seen = np.flatnonzero(mask[i])
        assert (tree.depth[seen] == np.arange(len(seen))).all()
        assert all((mask[i] | ~mask[j]).all() for j in seen), "an ancestor's ancestors are ancestors"


@given(st.lists(st.integers(0, 9), min_size=3, max_size=12), st.integers(1, 4))
def test_shared_prefixes_are_stored_once(ids, count):
    assert len(build([(ids, len(ids) - 1)] * count)) == len(ids) - 1 + count - 1


def test_shared_hint_gives_the_same_tree_as_looking():
    looked, told = TreeBuilder(), TreeBuilder()
    looked.add([1, 2, 3, 9], 3)
    looked.add([1, 2, 4, 5, 9], 4)
    told.add([1, 2, 3, 9], 3)
    told.add([4, 5, 9], 4, shared=2)
    assert looked.build().paths() == told.build().paths()


def test_ends_of_subtrees_follow_from_depths():
    assert subtree_ends(np.array([0, 1, 2, 1, 0])).tolist() == [4, 3, 3, 4, 5]


def test_collate_pads_without_touching_the_trees():
    trees = [build([([1, 2, 3], 1)]), build([([4, 5, 6, 7], 2), ([4, 8, 9], 1)])]
    batch = collate(trees, pad_id=0, multiple=8)
    mask = ancestor_mask(torch.from_numpy(batch["end"])).numpy()
    assert batch["input_ids"].shape == (2, 8) and mask.shape == (2, 8, 8)
    for row, tree in enumerate(trees):
        size = len(tree)
        assert (mask[row, :size, :size] == tree.mask()).all()
        assert not mask[row, :size, size:].any()
        assert (batch["shift_labels"][row, size:] == IGNORE).all()
        assert (mask[row, size:].sum(axis=1) >= 1).all(), "no row of a softmax is empty"


def test_ancestor_mask_of_a_chain_is_causal():
    assert (ancestor_mask(torch.full((1, 5), 5))[0] == torch.ones((5, 5), dtype=torch.bool).tril()).all()


def test_every_label_belongs_to_the_sample_that_added_it():
    builder = TreeBuilder()
    for ids, scored in [([1, 2, 3], 1), ([1, 2, 4], 2), ([1, 5], 1)]:
        builder.add(ids, scored)
    tree, samples = builder.build_with_samples()
    assert samples.dtype == np.int32 and ((samples >= 0) == (tree.labels != IGNORE)).all()
    labelled = tree.labels != IGNORE
    found = sorted(zip(tree.labels[labelled].tolist(), samples[labelled].tolist(), strict=True))
    assert found == [(2, 0), (3, 0), (4, 1), (5, 2)]
