"""Popularity and item-kNN against counts and similarities worked out the long way."""

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrec.collaborative.item_knn import ItemKNN
from llmrec.collaborative.popularity import Popularity

CATALOGUE = ["a", "b", "c", "d", "e"]


def training(histories: list[list[str]]) -> pl.DataFrame:
    users = [str(user) for user in range(len(histories))]
    schema = {"user_id": pl.String, "items": pl.List(pl.String)}
    return pl.DataFrame({"user_id": users, "items": histories}, schema=schema)


def test_popularity_ranks_by_count_then_catalogue_order():
    model = Popularity.fit(training([["c", "b"], ["c", "c"], ["e"]]), CATALOGUE)
    items, scores = model.recommend([["c"], []], k=4)
    assert items == [["c", "b", "e", "a"]] * 2
    assert scores[0] == [3.0, 1.0, 1.0, 0.0]


def test_popularity_leaves_out_what_is_excluded_and_ends_with_the_catalogue():
    model = Popularity.fit(training([["c", "b"], ["c"]]), CATALOGUE)
    items, _ = model.recommend([["c"]], k=10, exclude=[["c", "a", "unknown"]])
    assert items == [["b", "d", "e"]]


histories = st.lists(st.lists(st.sampled_from(CATALOGUE[:4]), max_size=5), min_size=1, max_size=8)


@settings(max_examples=60, deadline=None)
@given(histories, st.lists(st.sampled_from([*CATALOGUE, "unknown"]), max_size=4), st.booleans())
def test_item_knn_equals_dense_cosine(train, history, mask):
    matrix = np.array([[float(item in items) for item in CATALOGUE] for items in train])
    norms = np.linalg.norm(matrix, axis=0)
    cosine = matrix.T @ matrix / np.outer(np.maximum(norms, 1), np.maximum(norms, 1))
    np.fill_diagonal(cosine, 0)
    votes = sum((cosine[CATALOGUE.index(i)] for i in {*history} & {*CATALOGUE}), np.zeros(len(CATALOGUE)))
    counts = [sum(items.count(item) for items in train) for item in CATALOGUE]
    allowed = [i for i, item in enumerate(CATALOGUE) if not (mask and item in history)]
    expected = sorted(allowed, key=lambda i: (-round(votes[i], 9), -counts[i], i))

    model = ItemKNN.fit(training(train), CATALOGUE)
    items, scores = model.recommend([history], k=len(CATALOGUE), exclude=[history] if mask else None)

    assert items == [[CATALOGUE[i] for i in expected]]
    np.testing.assert_allclose(scores[0], votes[expected], atol=1e-9)


def test_item_knn_keeps_only_the_nearest_neighbours():
    train = training([["a", "b"], ["a", "b"], ["a", "c"]])
    one = ItemKNN.fit(train, CATALOGUE, neighbours=1)
    assert one.similarity.nnz == 3
    items, scores = one.recommend([["a"]], k=2, exclude=[["a"]])
    assert items == [["b", "c"]]
    assert scores[0][0] > 0 == scores[0][1]


def test_item_knn_is_the_same_in_blocks(monkeypatch):
    generator = np.random.default_rng(0)
    catalogue = [f"i{n}" for n in range(50)]
    train = training([list(generator.choice(catalogue, 6, replace=False)) for _ in range(80)])
    asked = [list(generator.choice(catalogue, 4)) for _ in range(30)]
    whole = ItemKNN.fit(train, catalogue).recommend(asked, 10, asked)
    monkeypatch.setattr("llmrec.collaborative.item_knn._BLOCK", 7)
    assert ItemKNN.fit(train, catalogue).recommend(asked, 10, asked) == whole
