"""Grounding against distances computed one by one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrec.collaborative import blocks
from llmrec.decode import grounding
from llmrec.decode.grounding import ground
from llmrec.errors import UserError

USERS, ITEMS, SIZE = 6, 25, 5


def vectors(seed):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(USERS, SIZE)).astype(np.float32), rng.normal(size=(ITEMS, SIZE)).astype(
        np.float32
    )


def normalised(values):
    return (values - values.min()) / (values.max() - values.min())


@given(
    st.integers(0, 100), st.sampled_from([None, "items", "users"]), st.floats(0, 20), st.integers(1, ITEMS)
)
def test_lists_equal_the_paper_formula(seed, kind, gamma, k):
    generated, items = vectors(seed)
    rng = np.random.default_rng(seed)
    shape = {"items": (ITEMS,), "users": (USERS, ITEMS)}
    weights = None if kind is None else rng.exponential(50, shape[kind])
    top = ground(generated, items, k, weights, gamma)
    for user in range(USERS):
        distance = normalised(np.array([np.linalg.norm(generated[user] - item) for item in items]))
        if weights is not None:
            distance = distance / (1 + normalised(weights if kind == "items" else weights[user])) ** gamma
        np.testing.assert_allclose(-top.scores[user], np.sort(distance)[:k], atol=1e-5)
        np.testing.assert_allclose(distance[top.items[user]], -top.scores[user], atol=1e-5)


def test_a_title_of_the_catalogue_is_grounded_to_its_item():
    _, items = vectors(1)
    assert ground(items, items, 1).items[:, 0].tolist() == list(range(ITEMS))


def test_close_items_are_told_apart_far_from_the_origin():
    items = np.array([[1000, 0], [1000.0, 0.01], [1000, 0.03], [900, 0]], np.float32)
    assert ground(np.array([[1000, 0.018]]), items, 4).items.tolist() == [[1, 2, 0, 3]]


def test_weights_lift_popular_items_and_gamma_0_ignores_them():
    items = np.array([[0.0], [2.0], [3.0], [9.0]])
    counts = np.array([0.0, 0, 10, 0])
    generated = np.array([[1.1]])
    assert ground(generated, items, 4, counts, 0.0).items.tolist() == [[1, 0, 2, 3]]
    assert ground(generated, items, 4, counts, 9.0).items.tolist() == [[1, 2, 0, 3]]


def test_equal_items_come_in_trie_order():
    items = np.tile(np.eye(2, dtype=np.float32), (200, 1))
    top = ground(np.array([[0.9, 0]], np.float32), items, 250)
    assert top.items[0].tolist() == [*range(0, 400, 2), *range(1, 100, 2)]


def test_masked_items_do_not_come_back_and_the_list_gets_shorter():
    generated, items = vectors(2)
    masked = [[], list(range(20)), [3], [], list(range(ITEMS)), [0, 0]]
    top = ground(generated, items, 10, denied=masked)
    for row, scores, hidden in zip(top.items, top.scores, masked, strict=True):
        length = min(10, ITEMS - len(set(hidden)))
        assert not set(row[:length].tolist()) & {-1, *hidden} and np.isfinite(scores[:length]).all()
        assert (row[length:] == -1).all() and np.isneginf(scores[length:]).all()


def test_a_single_item_and_equal_weights_are_no_division_by_zero():
    top = ground(np.ones((2, 3)), np.zeros((1, 3)), 5, np.ones(1), 2.0)
    assert top.items.tolist() == [[0], [0]] and top.scores.tolist() == [[0], [0]]


def test_lists_do_not_depend_on_the_block_size(monkeypatch):
    generated, items = vectors(3)
    weights = np.random.default_rng(3).normal(size=(USERS, ITEMS))
    masked = [[user] for user in range(USERS)]
    whole = ground(generated, items, 9, weights, 1.5, masked)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 2 * ITEMS * grounding._DISTANCE_BYTES)
    parts = ground(generated, items, 9, weights, 1.5, masked)
    assert (whole.items == parts.items).all() and (whole.scores == parts.scores).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"item_vectors": np.zeros((0, SIZE))}, "catalogue is empty"),
        ({"item_vectors": np.zeros((ITEMS, 3))}, "do not fit"),
        ({"weights": np.zeros(3)}, "weights have shape"),
        ({"generated_vectors": np.full((USERS, SIZE), np.nan)}, "not a finite number"),
        ({"weights": np.full(ITEMS, np.inf)}, "not a finite number"),
        ({"k": 0}, "k is 0"),
        ({"gamma": -1.0}, "gamma is -1.0"),
    ],
)
def test_wrong_requests_are_refused(change, message):
    generated, items = vectors(4)
    with pytest.raises(UserError, match=message):
        ground(**({"generated_vectors": generated, "item_vectors": items, "k": 3} | change))
