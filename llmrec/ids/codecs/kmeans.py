"""Lloyd's k-means and search for nearest centroids, by faiss."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

CHUNK = 16_384
ROWS_PER_CENTROID = 256


def kmeans(
    points: NDArray[np.float32], clusters: int, iterations: int, seed: int
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Cluster points.

    Args:
        points: float32 `[n, dim]`, contiguous, finite.
        clusters: number of centroids, at most n.
        iterations: Lloyd iterations.
        seed: seed of the initial centroids.

    Returns:
        Centroids, float32 `[clusters, dim]`, and the nearest centroid of each point, int32 `[n]`.
    """
    centroids = learn_centroids(
        points[training_rows(len(points), clusters, seed)], clusters, iterations, seed
    )
    return centroids, nearest(points, centroids)


def learn_centroids(
    points: NDArray[np.float32], clusters: int, iterations: int, seed: int
) -> NDArray[np.float32]:
    """Centroids of points, float32 `[clusters, dim]`; arguments as in `kmeans`."""
    import faiss

    quantizer = faiss.Kmeans(
        points.shape[1], clusters, niter=iterations, seed=seed, min_points_per_centroid=1
    )
    quantizer.train(np.ascontiguousarray(points))
    return np.array(quantizer.centroids, dtype=np.float32)


def training_rows(items: int, clusters: int, seed: int) -> NDArray[np.int32] | slice:
    """Rows for learning centroids: all, or a sample of 256 rows a centroid, drawn as in faiss.

    The sample is drawn here so that a caller can compute these rows only.
    """
    import faiss

    count = ROWS_PER_CENTROID * clusters
    if items <= count:
        return slice(None)
    order = np.empty(items, np.int32)
    # faiss generates the name when it is imported, so its stubs lack it.
    faiss.rand_perm(faiss.swig_ptr(order), items, seed)  # type: ignore[attr-defined]
    return order[:count]


def nearest(points: NDArray[np.float32], centroids: NDArray[np.float32]) -> NDArray[np.int32]:
    """The nearest centroid of each point, int32 `[n]`; among ties, the first.

    Args:
        points: float32 `[n, dim]`.
        centroids: float32 `[k, dim]`.
    """
    import faiss

    index = faiss.IndexFlatL2(centroids.shape[1])
    index.add(np.ascontiguousarray(centroids))
    labels = np.empty(len(points), np.int32)
    for rows in chunks(len(points)):
        labels[rows] = index.search(np.ascontiguousarray(points[rows]), 1)[1][:, 0]
    return labels


def chunks(items: int) -> Iterator[slice]:
    """Slices of consecutive rows, so short that their temporaries are small compared with the vectors."""
    return (slice(start, min(start + CHUNK, items)) for start in range(0, items, CHUNK))
