"""MMR against a loop over users, ranks and items; DPP against determinants."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrec.errors import UserError
from llmrec.recommend import rerank
from llmrec.recommend.rerank import dpp, mmr


def lists(seed, users=5, width=8, items=20, size=4):
    """Ranked lists, the later ones shorter, and item vectors, one of them zero."""
    rng = np.random.default_rng(seed)
    ranked = np.stack([rng.permutation(items)[:width] for _ in range(users)])
    scores = -np.sort(rng.exponential(size=(users, width)), axis=1).astype(np.float32)
    ended = np.arange(width) >= width - np.arange(users)[:, None]
    vectors = rng.normal(size=(items, size)).astype(np.float32)
    vectors[0] = 0
    return np.where(ended, -1, ranked), np.where(ended, -np.inf, scores), vectors


def by_hand(items, scores, vectors, trade_off, k):
    """MMR of one user, as the definition reads."""
    relevance = {i: s for i, s in zip(items, scores, strict=True) if i >= 0}
    low, high = min(relevance.values()), max(relevance.values())
    relevance = {i: (s - low) / (high - low) if high > low else 0 for i, s in relevance.items()}

    def cosine(i, j):
        norms = np.linalg.norm(vectors[i]) * np.linalg.norm(vectors[j])
        return vectors[i] @ vectors[j] / norms if norms else 0

    taken = []
    while relevance and len(taken) < k:
        values = {
            i: trade_off * r - (1 - trade_off) * max((cosine(i, j) for j, _ in taken), default=-1)
            for i, r in relevance.items()
        }
        best = max(values, key=values.get)
        taken.append((best, values[best]))
        del relevance[best]
    return taken


def values_of(found, user, expected):
    """The values of a user's list, which holds the expected items and then nothing; they never rise."""
    length = len(expected)
    assert found.items[user, :length].tolist() == expected
    assert (found.items[user, length:] == -1).all() and np.isneginf(found.scores[user, length:]).all()
    values = found.scores[user, :length]
    assert (np.diff(values) <= 1e-6).all()
    return values


@given(st.integers(0, 1000), st.floats(0, 0.99), st.integers(1, 8))
def test_lists_equal_the_definition(seed, trade_off, k):
    items, scores, vectors = lists(seed)
    found = mmr(items, scores, vectors, trade_off, k)
    for user in range(len(items)):
        expected = by_hand(items[user].tolist(), scores[user].tolist(), vectors, trade_off, k)
        values = values_of(found, user, [item for item, _ in expected])
        np.testing.assert_allclose(values, [value for _, value in expected], atol=1e-5)


def kernel(items, scores, vectors, trade_off):
    """S and L of one user's items, as the paper defines them."""
    norms = np.linalg.norm(vectors[items], axis=1, keepdims=True)
    unit = vectors[items].astype(np.float64) / np.where(norms > 0, norms, 1)
    similarity = (1 + unit @ unit.T) / 2
    np.fill_diagonal(similarity, 1)
    quality = np.exp(trade_off / (2 * (1 - trade_off)) * np.asarray(scores, np.float64))
    return similarity, quality[:, None] * similarity * quality


def by_determinants(similarity, likelihood, k):
    """Places in the order in which each raises det L most, computed anew from whole determinants.

    None if float32 vectors do not tell whether the taken items determine one that is left.
    """
    taken, left = [], list(range(len(likelihood)))

    def det(matrix, places):
        return np.linalg.det(matrix[np.ix_(places, places)])

    while left and len(taken) < k:
        shares = {i: det(similarity, [*taken, i]) / det(similarity, taken) for i in left}
        if any(1e-8 < share < 1e-4 for share in shares.values()):
            return None
        left = [i for i in left if shares[i] > 1e-6]
        if left:
            taken.append(max(left, key=lambda i: det(likelihood, [*taken, i])))
            left.remove(taken[-1])
    return taken


@given(st.integers(0, 1000), st.floats(0, 0.9), st.integers(1, 8))
def test_a_dpp_takes_what_raises_the_determinant_most(seed, trade_off, k):
    """Four dimensions and the constant hold five items at most, and one more whose vector is zero."""
    ranked, scores, vectors = lists(seed)
    found = dpp(ranked, scores, vectors, trade_off, k)
    for user in range(len(ranked)):
        items = ranked[user][ranked[user] >= 0]
        similarity, likelihood = kernel(items, scores[user][: len(items)], vectors, trade_off)
        taken = by_determinants(similarity, likelihood, k)
        if taken is None:
            continue
        values = values_of(found, user, items[taken].tolist())
        _, log_det = np.linalg.slogdet(likelihood[np.ix_(taken, taken)])
        np.testing.assert_allclose(values.sum(), (1 - trade_off) * log_det, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("trade_off", [0, 0.5, 0.999])
def test_a_dpp_never_takes_two_items_of_the_same_vector(trade_off):
    """Not even the two most probable items; lengths of vectors do not matter."""
    items, scores, vectors = lists(7, width=20, size=12)
    vectors[10:] = 3 * vectors[:10]
    found = dpp(items, scores, vectors, trade_off, 20)
    for row, given_row in zip(found.items, items, strict=True):
        # Vectors of length 0 say nothing, so the two items that have one are no copies of each other.
        kinds = [item % 10 for item in row if item >= 0 and item % 10]
        assert len(kinds) == len(set(kinds))
        assert set(kinds) == {item % 10 for item in given_row if item >= 0 and item % 10}


def test_a_dpp_by_hand():
    """S to the first item is 1, ½ and 0; then d² of the third is 1 − ¼ − ¼."""
    vectors = np.array([[1, 0], [2, 0], [0, 1], [-1, 0]], np.float32)
    ranked = np.array([[0, 1, 2, 3]])
    found = dpp(ranked, np.array([[-1.0, -1.1, -1.2, -1.3]]), vectors, 0, 4)
    assert found.items.tolist() == [[0, 3, 2, -1]]
    np.testing.assert_allclose(found.scores[0, :3], np.log([1, 1, 0.5]), atol=1e-6)
    # At θ = ½, p = .3 with d² = ¾ goes before p = .2 with d² = 1.
    found = dpp(ranked, np.log([[0.4, 0.35, 0.3, 0.2]]), vectors, 0.5, 2)
    assert found.items.tolist() == [[0, 2]]
    np.testing.assert_allclose(found.scores[0], np.log([0.4, 0.3 * 0.75]) / 2, atol=1e-6)


both = pytest.mark.parametrize("reorder", [mmr, dpp])


@both
def test_a_trade_off_of_1_leaves_lists_as_they_are(reorder):
    items, scores, vectors = lists(3)
    scores[0, 2:6] = scores[0, 2]
    vectors[:] = vectors[1]
    assert (reorder(items, scores, vectors, 1, items.shape[1]).items == items).all()


def test_an_item_with_the_direction_of_the_best_one_comes_last():
    vectors = np.array([[1, 0], [2, 0], [0, 1], [-1, 0]], np.float32)
    found = mmr(np.array([[0, 1, 2, 3]]), np.array([[-1.0, -1.1, -1.2, -1.3]]), vectors, 0.5, 4)
    assert found.items.tolist() == [[0, 3, 2, 1]]


@both
def test_lists_do_not_depend_on_the_block_size(monkeypatch, reorder):
    items, scores, vectors = lists(4)
    whole = reorder(items, scores, vectors, 0.6, 8)
    monkeypatch.setattr(rerank, "BLOCK", 1)
    blocks = reorder(items, scores, vectors, 0.6, 8)
    assert (whole.items == blocks.items).all() and (whole.scores == blocks.scores).all()


@both
def test_a_list_is_never_longer_than_the_one_given_and_may_be_empty(reorder):
    items, scores, vectors = lists(5)
    assert reorder(items, scores, vectors, 0.5, 99).items.shape == items.shape
    empty = reorder(np.full((2, 3), -1), np.full((2, 3), -np.inf), vectors, 0.5, 2)
    assert empty.items.tolist() == [[-1, -1]] * 2 and np.isneginf(empty.scores).all()


@both
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trade_off": 1.5}, "trade-off is 1.5"),
        ({"trade_off": float("nan")}, "trade-off is nan"),
        ({"k": 0}, "k is 0"),
        ({"scores": np.zeros((5, 7))}, "do not fit"),
        ({"vectors": np.zeros((3, 4), np.float32)}, "has no vector"),
        ({"vectors": np.full((20, 4), np.nan, np.float32)}, "not a finite number"),
    ],
)
def test_wrong_requests_are_refused(reorder, change, message):
    items, scores, vectors = lists(6)
    request = {"items": items, "scores": scores, "vectors": vectors, "trade_off": 0.5, "k": 3} | change
    with pytest.raises(UserError, match=message):
        reorder(**request)
