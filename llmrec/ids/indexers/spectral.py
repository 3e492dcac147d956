"""Recursive spectral clustering of the co-occurrence graph of items.

The graph's adjacency is WᵀW without its diagonal, where W is the weighted user × item matrix. The product is never
computed, so that memory and time grow with the interactions and not with the pairs of items.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from llmrec.progress.bar import follow

_REGULARISATION = 0.1
"""Weight of each item's edges to the whole catalogue, in mean degrees (Amini et al. 2013); they connect separate
parts. On Beauty, 1 leaves hundreds of items in one cluster of the third level, 0.1 leaves thirty to fifty."""
_DENSE = 512
"""Up to this number of items a full eigendecomposition is as fast."""
_TOLERANCE = 1e-3
"""Relative accuracy of eigenvalues; clusters are as good as with full accuracy, in a fraction of the time."""
_ITERATIONS = 25
_STARTS = 5


def user_rows(histories: Sequence[NDArray[np.int64]], items: int) -> sparse.csc_array:
    """The matrix W `[users with at least two items, items]`.

    A user of n items adds 1/(n - 1) to each pair of these items. So an item's degree is its number of users, and a
    user of hundreds of items does not outweigh the others. (Hua et al. add 1. Next items of the validation split are
    then harder to predict, on Beauty and on MovieLens-100K.)

    Args:
        histories: each user's items.
        items: number of items.
    """
    lengths = [len(history) for history in histories]
    columns = np.concatenate([np.empty(0, np.int64), *histories])
    rows = np.repeat(np.arange(len(lengths)), lengths)
    weights = sparse.csr_array((np.ones(len(rows)), (rows, columns)), shape=(len(lengths), items))
    weights.sum_duplicates()
    distinct = np.diff(weights.indptr)
    weights.data = np.repeat(1 / np.sqrt(np.maximum(distinct - 1, 1)), distinct)
    return _with_pairs(weights)


def cluster_tree(users: sparse.csc_array, clusters: int, leaf: int, seed: int) -> NDArray[np.int32]:
    """Split the catalogue, and then each part, until the parts are small.

    A part of at most `leaf` items is not split. The number of levels is that of even splits, so after uneven splits
    the parts of the last level may be larger than `leaf`. The clusters of a part are numbered by their interactions,
    the most frequent first, so that a code has a similar meaning in each part.

    Args:
        users: the matrix W.
        clusters: number of clusters that a part is split into.
        leaf: largest number of items of a part that is not split.
        seed: seed of k-means and of the eigensolver.

    Returns:
        Paths, int32 `[items, levels]`, -1 after the end of a path.
    """
    items = users.shape[1]
    levels = 1
    while leaf * clusters**levels < items:
        levels += 1
    paths = np.full((items, levels), -1, np.int32)
    popularity = _degrees(users)
    parts = [(np.arange(items), users)] if items > leaf else []
    for level in follow(range(levels), "spectral clusters", "level"):
        smaller = []
        for members, rows in parts:
            labels = _split(rows, min(clusters, len(members)), seed)
            labels = _most_frequent_first(labels, popularity[members])
            paths[members, level] = labels
            for label in range(labels.max() + 1):
                chosen = np.flatnonzero(labels == label)
                if len(chosen) > leaf and level + 1 < levels:
                    smaller.append((members[chosen], _with_pairs(rows[:, chosen].tocsr())))
        parts = smaller
    return paths


def _with_pairs(rows: sparse.csr_array) -> sparse.csc_array:
    """Rows of the users with at least two items in these columns."""
    return sparse.csc_array(rows[np.diff(rows.indptr) > 1])


def _degrees(users: sparse.csc_array) -> NDArray[np.float64]:
    sums: NDArray[np.float64] = users.T @ (users @ np.ones(users.shape[1]))
    return sums - _diagonal(users)


def _diagonal(users: sparse.csc_array) -> NDArray[np.float64]:
    return np.asarray(users.power(2).sum(axis=0)).ravel()


def _split(users: sparse.csc_array, clusters: int, seed: int) -> NDArray[np.int32]:
    """Label of each item: k-means of the normalised rows of the leading eigenvectors (Ng et al. 2001).

    Items that the graph does not distinguish are divided evenly, in catalogue order.
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
    """Cluster of each point in the best of several runs of k-means, initialised by k-means++.

    Clear clusters are orthogonal here (Ng et al. 2001), and a single random start often merges two of them.
    """
    import faiss

    kmeans = faiss.Kmeans(
        points.shape[1],
        clusters,
        niter=_ITERATIONS,
        nredo=_STARTS,
        seed=seed,
        min_points_per_centroid=1,
        init_method=faiss.ClusteringInitMethod_KMEANS_PLUS_PLUS,
    )
    kmeans.train(points)
    labels: NDArray[np.int32] = kmeans.index.search(points, 1)[1][:, 0].astype(np.int32)
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


def _most_frequent_first(labels: NDArray[np.int32], popularity: NDArray[np.float64]) -> NDArray[np.int32]:
    """Renumber the labels in use from 0, in descending order of the summed popularity of their items."""
    used = np.unique(labels, return_inverse=True)[1]
    order = np.argsort(-np.bincount(used, popularity).round(6), kind="stable")
    return np.argsort(order).astype(np.int32)[used]
