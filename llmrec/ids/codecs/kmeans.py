"""Lloyd's k-means and nearest centroids, by faiss."""

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
        Centroids, float32 `[clusters, dim]`, and each point's nearest one, int32 `[n]`.
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

    found = faiss.Kmeans(points.shape[1], clusters, niter=iterations, seed=seed, min_points_per_centroid=1)
    found.train(np.ascontiguousarray(points))
    return np.array(found.centroids, dtype=np.float32)


def training_rows(items: int, clusters: int, seed: int) -> NDArray[np.int32] | slice:
    """Rows to learn centroids from: all, or 256 a centroid, drawn as faiss draws them when given more.

    Drawing them here instead lets a caller make only those rows.
    """
    import faiss

    wanted = ROWS_PER_CENTROID * clusters
    if items <= wanted:
        return slice(None)
    order = np.empty(items, np.int32)
    faiss.rand_perm(faiss.swig_ptr(order), items, seed)
    return order[:wanted]


def nearest(points: NDArray[np.float32], centroids: NDArray[np.float32]) -> NDArray[np.int32]:
    """The nearest centroid of each point, int32 `[n]`; the first of several.

    Args:
        points: float32 `[n, dim]`.
        centroids: float32 `[k, dim]`.
    """
    import faiss

    index = faiss.IndexFlatL2(centroids.shape[1])
    index.add(np.ascontiguousarray(centroids))
    found = np.empty(len(points), np.int32)
    for rows in chunks(len(points)):
        found[rows] = index.search(np.ascontiguousarray(points[rows]), 1)[1][:, 0]
    return found


def chunks(items: int) -> Iterator[slice]:
    """Consecutive rows, few enough for their temporaries to be small beside the vectors."""
    return (slice(start, min(start + CHUNK, items)) for start in range(0, items, CHUNK))
