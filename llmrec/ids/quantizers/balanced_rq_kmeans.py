"""Residual k-means with clusters of equal size: all codes of a level have equally many items, ±1."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from llmrec.ids.codecs.balance import assign_to_sizes, even_sizes
from llmrec.ids.codecs.kmeans import learn_centroids, nearest, training_rows
from llmrec.ids.codecs.residual import ResidualCodec, mean_vector, squared_distances
from llmrec.ids.tokenizer import Codes, KmeansTokenizer, Signals, number_of_codes
from llmrec.progress.bar import follow


class BalancedRqKmeansTokenizer(KmeansTokenizer):
    """Residual k-means with clusters of equal size (±1)."""

    def fit(self, signals: Signals, seed: int) -> Codes:
        """Balanced residual k-means (of items: Deng et al. 2025, OneRec; Kong et al. 2025, MiniOneRec).

        The codes come from the balanced assignment. A new item gets the nearest centroids, whatever their clusters'
        sizes.
        """
        vectors = np.asarray(signals.vectors, dtype=np.float32)
        size = number_of_codes(self.codes, len(vectors))
        residuals = np.array(vectors, order="C")
        columns: list[NDArray[np.int32]] = []
        codebooks: list[NDArray[np.float32]] = []
        for level in follow(range(self.levels), "balanced residual k-means", "level"):
            centroids, assigned = balanced_kmeans(residuals, size, self.iterations, seed + level)
            residuals -= centroids[assigned]
            columns.append(assigned)
            codebooks.append(centroids)
        codec = ResidualCodec(codebooks, mean_vector(vectors))
        return Codes(np.stack(columns, axis=1), codec.sizes, codec)


def balanced_kmeans(
    points: NDArray[np.float32], clusters: int, iterations: int, seed: int
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Constrained k-means (Bradley, Bennett & Demiriz 2000) with sizes ⌊n/k⌋ and ⌈n/k⌉.

    It starts from plain k-means; the larger of its clusters get the larger sizes. Then two steps alternate until the
    assignment no longer changes: the assignment of least total cost for these sizes, and new means. So the error
    never increases. Centroids are learnt from at most 256 points a cluster. The last assignment is of all points, and
    needs memory for their distances to all centroids.

    Args:
        points: float32 `[n, dim]`, finite.
        clusters: number of clusters, at most n.
        iterations: maximum number of iterations, first of plain and then of balanced k-means.
        seed: seed of the initial centroids.

    Returns:
        The clusters' means, float32 `[clusters, dim]`, and each point's cluster, int32 `[n]`.
    """
    sample = points[training_rows(len(points), clusters, seed)]
    centroids = learn_centroids(sample, clusters, iterations, seed)
    sizes = even_sizes(nearest(sample, centroids), clusters)
    prices = np.zeros(clusters)
    assigned = np.empty(0, np.int32)
    for _ in range(iterations):
        before, assigned = assigned, assign_to_sizes(squared_distances(sample, centroids), sizes, prices)
        centroids = _means(sample, assigned)
        if np.array_equal(before, assigned):
            break
    if len(sample) < len(points):
        sizes = even_sizes(nearest(points, centroids), clusters)
        assigned = assign_to_sizes(squared_distances(points, centroids), sizes, prices)
        centroids = _means(points, assigned)
    return centroids, assigned


def _means(points: NDArray[np.float32], assigned: NDArray[np.int32]) -> NDArray[np.float32]:
    """Means of non-empty clusters, float32 `[clusters, dim]`."""
    sizes = np.bincount(assigned)
    starts = np.cumsum(sizes) - sizes
    ordered = points[np.argsort(assigned, kind="stable")]
    return (np.add.reduceat(ordered, starts, axis=0, dtype=np.float64) / sizes[:, None]).astype(np.float32)
