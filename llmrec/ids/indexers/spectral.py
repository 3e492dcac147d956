"""Recursive spectral clustering of the graph of items that users had in common.

The graph's adjacency is WᵀW without its diagonal, W the weighted user × item matrix; it is never formed, so
that memory and time follow the interactions and not the pairs of items.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from tqdm import tqdm

_REGULARISATION = 0.1
"""Weight of each item's edges to the whole catalogue, in mean degrees (Amini et al. 2013): they join what is
disconnected. On Beauty, 1 leaves hundreds of items in one cluster of the third level, 0.1 thirty to fifty."""
_DENSE = 512
"""Below this many items a full eigendecomposition is as fast."""
_TOLERANCE = 1e-3
"""Relative accuracy of eigenvalues; clusters are as good as at full accuracy, in a fraction of the time."""
_ITERATIONS = 25
_STARTS = 5


def user_rows(histories: Sequence[NDArray[np.int64]], items: int) -> sparse.csc_array:
    """The matrix W `[users with at least two items, items]`.

    A user of n items adds 1/(n - 1) to each of their pairs, so that an item's degree is its number of users,
    and a user of hundreds of items does not outweigh the others. (Hua et al. add 1; next items of
    the validation split are then harder to tell, on Beauty and MovieLens-100K alike.)

    Args:
        histories: each user's items.
        items: number of items.
    """
    lengths = [len(history) for history in histories]
    columns = np.concatenate([np.empty(0, np.int64), *histories])
    rows = np.repeat(np.arange(len(lengths)), lengths)
    had = sparse.csr_array((np.ones(len(rows)), (rows, columns)), shape=(len(lengths), items))
    had.sum_duplicates()
    distinct = np.diff(had.indptr)
    had.data = np.repeat(1 / np.sqrt(np.maximum(distinct - 1, 1)), distinct)
    return _with_pairs(had)


def cluster_tree(users: sparse.csc_array, clusters: int, leaf: int, seed: int) -> NDArray[np.int32]:
    """Split the catalogue, then each part, until it is small; int32 `[items, levels]`, -1 from where a path ends.

    A part of at most `leaf` items is left whole. There are as many levels as even splits would need; the
    last level's parts may be larger than `leaf` where the splits before it were uneven. A part's
    clusters are numbered by their interactions, the most visited first, so that a code means alike in each.

    Args:
        users: the matrix W.
        clusters: parts that a part is split into.
        leaf: items of a part that is not split.
        seed: seed of k-means and of the eigensolver.
    """
    items = users.shape[1]
    levels = 1
    while leaf * clusters**levels < items:
        levels += 1
    paths = np.full((items, levels), -1, np.int32)
    popularity = _degrees(users)
    parts = [(np.arange(items), users)] if items > leaf else []
    for level in tqdm(range(levels), desc="spectral clusters", unit="level"):
        smaller = []
        for members, rows in parts:
            found = _split(rows, min(clusters, len(members)), seed)
            labels = _most_visited_first(found, popularity[members])
            paths[members, level] = labels
            for label in range(labels.max() + 1):
                chosen = np.flatnonzero(labels == label)
                if len(chosen) > leaf and level + 1 < levels:
                    smaller.append((members[chosen], _with_pairs(rows[:, chosen].tocsr())))
        parts = smaller
    return paths


def _with_pairs(rows: sparse.csr_array) -> sparse.csc_array:
    """The rows of users who have two items here."""
    return sparse.csc_array(rows[np.diff(rows.indptr) > 1])


def _degrees(users: sparse.csc_array) -> NDArray[np.float64]:
    sums: NDArray[np.float64] = users.T @ (users @ np.ones(users.shape[1]))
    return sums - _diagonal(users)


def _diagonal(users: sparse.csc_array) -> NDArray[np.float64]:
    return np.asarray(users.power(2).sum(axis=0)).ravel()


def _split(users: sparse.csc_array, clusters: int, seed: int) -> NDArray[np.int32]:
    """A label for each item: k-means of the rows of the leading eigenvectors, at unit length (Ng et al. 2001).

    Items that the graph cannot tell apart are cut evenly, in catalogue order.
    """
    items = users.shape[1]
    if users.nnz:
        vectors = _eigenvectors(users, clusters, seed)
        points = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        labels = _kmeans(np.ascontiguousarray(points, np.float32), clusters, seed)
        if labels.min() < labels.max():
            return labels
    return (np.arange(items) * clusters // items).astype(np.int32)


def _kmeans(points: NDArray[np.float32], clusters: int, seed: int) -> NDArray[np.int32]:
    """Each point's cluster in the best of several k-means, started by k-means++.

    Clear clusters lie at right angles here (Ng et al. 2001), where one random start often joins two of them.
    """
    import faiss

    found = faiss.Kmeans(
        points.shape[1],
        clusters,
        niter=_ITERATIONS,
        nredo=_STARTS,
        seed=seed,
        min_points_per_centroid=1,
        init_method=faiss.ClusteringInitMethod_KMEANS_PLUS_PLUS,
    )
    found.train(points)
    labels: NDArray[np.int32] = found.index.search(points, 1)[1][:, 0].astype(np.int32)
    return labels


def _eigenvectors(users: sparse.csc_array, count: int, seed: int) -> NDArray[np.float64]:
    """Leading eigenvectors `[items, count]` of the normalised, regularised adjacency D^-½ (A + τ/n) D^-½."""
    from scipy.sparse.linalg import LinearOperator, eigsh

    items = users.shape[1]
    degrees, diagonal = _degrees(users), _diagonal(users)
    tau = _REGULARISATION * degrees.mean()
    scale = 1 / np.sqrt(degrees + tau)
    if items <= _DENSE:
        adjacency = (users.T @ users).toarray() - np.diag(diagonal) + tau / items
        return np.linalg.eigh(scale[:, None] * adjacency * scale)[1][:, -count:]

    transposed = users.T

    def multiply(vector: NDArray[np.float64]) -> NDArray[np.float64]:
        scaled = scale * vector.ravel()
        product: NDArray[np.float64] = transposed @ (users @ scaled) - diagonal * scaled
        return scale * (product + tau / items * scaled.sum())

    rng = np.random.default_rng(seed)
    operator = LinearOperator((items, items), matvec=multiply, dtype=np.float64)
    start = rng.standard_normal(items)
    vectors: NDArray[np.float64] = eigsh(operator, count, which="LA", v0=start, tol=_TOLERANCE, rng=rng)[1]
    return vectors


def _most_visited_first(labels: NDArray[np.int32], popularity: NDArray[np.float64]) -> NDArray[np.int32]:
    """The labels in use, numbered from 0 by the summed popularity of their items, largest first."""
    used = np.unique(labels, return_inverse=True)[1]
    order = np.argsort(-np.bincount(used, popularity).round(6), kind="stable")
    return np.argsort(order).astype(np.int32)[used]
