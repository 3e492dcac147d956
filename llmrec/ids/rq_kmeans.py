"""Residual k-means: each level clusters what the levels before it left over."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

MAX_AUTO_CODES = 256


@dataclass(frozen=True)
class Quantized:
    """What a quantizer gives.

    Attributes:
        codes: int32 `[items, levels]`.
        codebooks: float32 `[codes, dim]` a level.
        residuals: float32 `[items, dim]`, vectors minus their centroids of all levels.
        errors: for each level, the share of the vectors' variance that is left after it.
    """

    codes: NDArray[np.int32]
    codebooks: list[NDArray[np.float32]]
    residuals: NDArray[np.float32]
    errors: list[float]


def auto_codes(items: int) -> int:
    """Codes a level for a catalogue: the power of two nearest to 2·√items, between 2 and 256.

    A code of the first level then serves about √items/2 items, so that what the model learns about one item
    carries over to others: 256 codes from about 8,200 items, 64 for 1,682 items, 16 for 100.
    """
    nearest = 2 ** round(math.log2(2 * math.sqrt(max(items, 1))))
    return min(max(nearest, 2), MAX_AUTO_CODES)


def quantize(vectors: NDArray[np.float32], levels: int, codes: int, iterations: int, seed: int) -> Quantized:
    """Residual k-means (Chen et al. 2010; as a tokenizer of items: Luo et al. 2024, QARM), by faiss.

    Args:
        vectors: float32 `[items, dim]`, finite.
        levels: number of codebooks.
        codes: centroids a level; at most as many as there are items are made.
        iterations: Lloyd iterations a level.
        seed: seed of the initial centroids.
    """
    import faiss

    codes = min(codes, len(vectors))
    residuals = np.array(vectors, dtype=np.float32, order="C")
    variance = float(np.square(residuals - residuals.mean(axis=0)).sum(dtype=np.float64))
    columns, codebooks, errors = [], [], []
    for level in tqdm(range(levels), desc="residual k-means", unit="level"):
        kmeans = faiss.Kmeans(
            residuals.shape[1], codes, niter=iterations, seed=seed + level, min_points_per_centroid=1
        )
        kmeans.train(residuals)
        centroids = np.array(kmeans.centroids, dtype=np.float32)
        assigned = kmeans.index.search(residuals, 1)[1][:, 0]
        residuals -= centroids[assigned]
        columns.append(assigned.astype(np.int32))
        codebooks.append(centroids)
        left = float(np.square(residuals).sum(dtype=np.float64))
        errors.append(left / variance if variance > 0 else 0.0)
    return Quantized(np.stack(columns, axis=1), codebooks, residuals, errors)
