"""Residual codebooks: the codes of a level stand for centroids of the residuals of the levels before it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from llmrec.ids.codecs.kmeans import chunks, nearest
from llmrec.ids.tokenizer import Codec


class ResidualCodec(Codec):
    """Sums of centroids, one centroid a level (Chen et al. 2010).

    Args:
        codebooks: float32 `[codes, dim]` a level.
        mean: reconstruction from zero levels, float32 `[dim]`; zeros by default. It is not part of the sum, since the
            centroids of the first level are means of vectors that are not centred.
    """

    form = "residual"

    def __init__(
        self, codebooks: Sequence[NDArray[np.float32]], mean: NDArray[np.float32] | None = None
    ) -> None:
        self.codebooks = list(codebooks)
        self.sizes = [len(book) for book in codebooks]
        self.mean = np.zeros(self.codebooks[0].shape[1], np.float32) if mean is None else mean

    def costs(self, vectors: NDArray[np.float32], prefix: NDArray[np.int32]) -> NDArray[np.float32]:
        """Squared distances of the residuals to the next level's centroids, float32 `[n, codes]`."""
        book = self.codebooks[prefix.shape[1]]
        costs = np.empty((len(vectors), len(book)), np.float32)
        for rows in chunks(len(vectors)):
            costs[rows] = squared_distances(self.residuals(vectors[rows], prefix[rows]), book)
        return costs

    def encode(self, vectors: NDArray[np.float32]) -> NDArray[np.int32]:
        """The nearest centroid of each level's residual, int32 `[n, levels]`."""
        codes = np.empty((len(vectors), self.levels), np.int32)
        for rows in chunks(len(vectors)):
            residuals = np.array(vectors[rows], np.float32, order="C")
            codes[rows, 0] = nearest(residuals, self.codebooks[0])
            for level in range(1, self.levels):
                residuals -= self.codebooks[level - 1][codes[rows, level - 1]]
                codes[rows, level] = nearest(residuals, self.codebooks[level])
        return codes

    def residuals(self, vectors: NDArray[np.float32], prefix: NDArray[np.int32]) -> NDArray[np.float32]:
        """Vectors minus the centroids of the first levels, float32 `[n, dim]`; a copy."""
        residuals = np.array(vectors, np.float32, order="C")
        for level in range(prefix.shape[1]):
            residuals -= self.codebooks[level][prefix[:, level]]
        return residuals

    def reconstruct(self, codes: NDArray[np.int32]) -> NDArray[np.float32]:
        """The sum of the codes' centroids, float32 `[n, dim]`; the mean for no level."""
        if codes.shape[1] == 0:
            return np.tile(self.mean, (len(codes), 1))
        total = self.codebooks[0][codes[:, 0]]
        for level in range(1, codes.shape[1]):
            total += self.codebooks[level][codes[:, level]]
        return total

    @property
    def level_centroids(self) -> list[NDArray[np.float32]]:
        """The codebooks."""
        return self.codebooks

    def tensors(self) -> dict[str, NDArray[np.float32]]:
        """The mean and the codebooks, `level_0`, `level_1`, …"""
        return {"mean": self.mean} | {f"level_{level}": book for level, book in enumerate(self.codebooks)}

    @classmethod
    def from_tensors(cls, tensors: dict[str, NDArray[np.float32]]) -> ResidualCodec:
        """The codec with this mean and these codebooks."""
        return cls([tensors[f"level_{level}"] for level in range(len(tensors) - 1)], tensors["mean"])


def mean_vector(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean of vectors, float32 `[dim]`, summed in float64, so that the mean of equal vectors is exact."""
    return vectors.mean(axis=0, dtype=np.float64).astype(np.float32)


def code_means(vectors: NDArray[np.float32], codes: NDArray[np.int32], size: int) -> NDArray[np.float32]:
    """Mean vector of the items of each code, float32 `[size, dim]`; zeros for a code without items.

    Args:
        vectors: float32 `[n, dim]`.
        codes: int32 `[n]`, below `size`.
        size: number of codes.
    """
    sums = np.zeros((size, vectors.shape[1]))
    np.add.at(sums, codes, vectors)
    counts = np.maximum(np.bincount(codes, minlength=size), 1)
    return (sums / counts[:, None]).astype(np.float32)


def squared_distances(points: NDArray[np.float32], centroids: NDArray[np.float32]) -> NDArray[np.float32]:
    """Squared Euclidean distances `[n, k]` between points `[n, dim]` and centroids `[k, dim]`."""
    products = points @ centroids.T
    norms = np.square(points).sum(axis=1)[:, None] + np.square(centroids).sum(axis=1)
    return np.maximum(norms - 2 * products, 0)
