"""The collaborative prior against sums over the items under each prefix."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llmrec.catalogue.overlay import build_overlay
from llmrec.catalogue.prefix_mass import FLOOR, CollaborativePrior
from llmrec.catalogue.trie import ROOT, Trie
from llmrec.errors import UserError

CODES, LEVELS = 4, 3
sid_sets = st.sets(st.tuples(*[st.integers(0, CODES - 1)] * LEVELS), min_size=2, max_size=30).map(sorted)


def softmax(scores):
    weights = np.exp(scores - scores.max())
    return weights / weights.sum()


def check(trie, sids, scores):
    """Walk the catalogue level by level; `sids` holds the SID of each item, None where it is removed."""
    prior = CollaborativePrior(trie, scores)
    alive = np.array([sid is not None for sid in sids])
    chance = np.array([softmax(np.where(alive, row, -np.inf)) for row in scores])
    frontier = {(): ROOT}
    for depth in range(LEVELS):
        nodes = torch.tensor(list(frontier.values())).expand(len(scores), -1)
        child, token, legal = trie.expand(nodes, depth)
        got = prior.log_prob(child, legal)
        assert got.dtype == torch.float32 and torch.isneginf(got[~legal]).all()
        deeper = {}
        for place, prefix in enumerate(frontier):
            expected = {}
            for item, sid in enumerate(sids):
                if sid is not None and sid[:depth] == prefix:
                    expected[sid[depth]] = expected.get(sid[depth], 0) + chance[:, item]
            total = sum(expected.values())
            for slot in legal[0, place].nonzero().flatten().tolist():
                code = token[0, place, slot].item() - depth * CODES
                np.testing.assert_allclose(got[:, place, slot], np.log(expected.pop(code) / total), atol=1e-4)
                deeper[(*prefix, code)] = child[0, place, slot].item()
            assert not expected
        frontier = deeper


@given(sid_sets, st.integers(0, 100))
def test_a_childs_share_is_the_softmax_mass_of_its_items(sids, seed):
    scores = np.random.default_rng(seed).normal(0, 3, (2, len(sids)))
    check(Trie.build(np.array(sids), [CODES] * LEVELS), sids, scores)


@given(sid_sets, st.data())
def test_a_childs_share_includes_added_and_excludes_removed_items(sids, data):
    base = data.draw(st.sets(st.sampled_from(sids), min_size=1, max_size=len(sids) - 1).map(sorted))
    added = sorted(set(sids) - set(base))
    removed = data.draw(st.sets(st.integers(0, len(base) - 1)))
    trie = build_overlay(Trie.build(np.array(base), [CODES] * LEVELS), np.array(added), sorted(removed))
    present = [None if item in removed else sid for item, sid in enumerate(base)] + added
    check(trie, present, np.random.default_rng(0).normal(0, 3, (2, trie.items)))


@pytest.fixture(scope="module")
def square():
    """Four items under two prefixes; their children as the trie gives them for one user."""
    trie = Trie.build(np.array([[0, 0], [0, 1], [1, 0], [1, 1]]), [2, 2])
    first = trie.expand(torch.tensor([[ROOT]]), 0)
    return trie, trie.expand(first[0][:, 0], 1)


def test_shares_are_renormalised_over_what_is_allowed(square):
    trie, (child, _, legal) = square
    prior = CollaborativePrior(trie, torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
    allowed = legal & torch.tensor([[[True, True], [False, True]]])
    probability = prior.log_prob(child, allowed).exp()
    np.testing.assert_allclose(probability[0, 0], softmax(np.array([1.0, 2.0])), atol=1e-6)
    assert probability[0, 1].tolist() == [0, 1]


def test_a_dead_beam_is_minus_infinity_and_nothing_is_nan(square):
    trie, (child, _, legal) = square
    prior = CollaborativePrior(trie, torch.zeros(1, 4))
    assert torch.isneginf(prior.log_prob(child, torch.zeros_like(legal))).all()


def test_children_without_mass_have_the_floor_probability(square):
    trie, (child, _, legal) = square
    inf = torch.inf
    prior = CollaborativePrior(
        trie, torch.tensor([[0.0, -inf, -inf, -inf], [0.0, -5000.0, -5000.0, -5000.0]])
    )
    found = prior.log_prob(child.expand(2, -1, -1), legal.expand(2, -1, -1))
    np.testing.assert_allclose(found[:, 0], [[0, np.log(FLOOR)]] * 2, atol=1e-5)
    np.testing.assert_allclose(found[:, 1].exp(), 0.5, atol=1e-6)


def test_a_user_whose_scores_are_all_minus_infinity_gets_equal_children(square):
    trie, (child, _, legal) = square
    prior = CollaborativePrior(trie, torch.full((1, 4), -torch.inf))
    np.testing.assert_allclose(prior.log_prob(child, legal).exp(), 0.5, atol=1e-6)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (np.zeros((1, 3)), "4 items"),
        (np.zeros(4), "4 items"),
        (np.array([[0, np.nan, 0, 0]]), "NaN"),
        (np.array([[0, np.inf, 0, 0]]), "NaN or"),
    ],
)
def test_wrong_scores_are_refused(square, scores, message):
    with pytest.raises(UserError, match=message):
        CollaborativePrior(square[0], scores)
