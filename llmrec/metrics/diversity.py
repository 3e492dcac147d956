"""Intra-list diversity: how different the items of one list are."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import sparse

from llmrec.metrics.lists import RecommendedLists, Values
from llmrec.metrics.metric import UserMetric

_BLOCK_CELLS = 1 << 22


def intra_list_distance(vectors: npt.NDArray[np.floating], positions: npt.NDArray[np.int64]) -> Values:
    """Mean cosine distance of the pairs of items in each list.

    Source: Ziegler et al., Improving recommendation lists through topic diversification, WWW 2005
    (intra-list similarity); Castells et al., Novelty and diversity in recommender systems, 2015 (its complement).

    Args:
        vectors: `[items, dim]`, of length 1; an item whose vector is 0 has no content and is left out.
        positions: `[users, k]`, rows of `vectors`, −1 for no item.

    Returns:
        float64 `[users]`, from 0 (all alike); NaN for a list with fewer than two items that have a vector.
    """
    has_vector = np.append(np.any(vectors != 0, axis=1), False)  # the last row stands for −1
    rows = np.vstack([vectors, np.zeros((1, vectors.shape[1]), vectors.dtype)])
    counts = has_vector[positions].sum(axis=1)
    similar = np.empty(len(positions))
    step = max(1, _BLOCK_CELLS // max(1, positions.shape[1] * vectors.shape[1]))
    for start in range(0, len(positions), step):
        listed = rows[positions[start : start + step]].astype(np.float64)
        # Σ over pairs of v·w = (|Σ v|² − Σ |v|²) / 2, and each |v| is 1.
        similar[start : start + step] = np.square(listed.sum(axis=1)).sum(axis=1)
    pairs = counts * (counts - 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        distances: Values = np.where(pairs > 0, 1 - (similar - counts) / pairs, np.nan)
    return distances


def _by_categories(lists: RecommendedLists, k: int) -> Values:
    categories = lists.items.categories
    assert categories is not None  # the metric declares that it needs them
    norms = np.sqrt(np.maximum(categories.sum(axis=1), 1.0))
    unit = sparse.csr_array(sparse.diags_array(1 / norms) @ categories)
    return _distance_of_sparse(unit, lists.positions[:, :k])


def _distance_of_sparse(unit: sparse.csr_array, positions: npt.NDArray[np.int64]) -> Values:
    """Compute `intra_list_distance` for sparse vectors: only items that are listed become dense rows."""
    distances = np.empty(len(positions))
    step = max(1, _BLOCK_CELLS // max(1, positions.shape[1] * unit.shape[1]))
    for start in range(0, len(positions), step):
        block = positions[start : start + step]
        listed, places = np.unique(block, return_inverse=True)
        places = places.reshape(block.shape) - (listed[:1] == -1).sum()
        distances[start : start + step] = intra_list_distance(unit[listed[listed >= 0]].toarray(), places)
    return distances


def _by_text(lists: RecommendedLists, k: int) -> Values:
    vectors = lists.items.text_vectors
    assert vectors is not None  # the metric declares that it needs them
    return intra_list_distance(vectors, lists.positions[:, :k])


_FORMULA = "Diversity@k = mean over the pairs of items within the first k of 1 − cosine of their "
_SOURCE = (
    "Ziegler et al., Improving recommendation lists through topic diversification, WWW 2005; Castells et al., "
    "Novelty and diversity in recommender systems, 2015"
)
DIVERSITY = UserMetric(
    name="diversity",
    title="Diversity of categories",
    formula=_FORMULA + "categories; an item without categories is left out",
    source=_SOURCE,
    value=_by_categories,
    reading="0: all items have the same categories; 1: no two share one",
    needs=("categories",),
)
TEXT_DIVERSITY = UserMetric(
    name="text_diversity",
    title="Diversity of texts",
    formula=_FORMULA + "text vectors (those of text_knn, centred); an item without text is left out",
    source=_SOURCE,
    value=_by_text,
    reading="0: all texts alike; 1: as two items at random",
    needs=("text_vectors",),
)
