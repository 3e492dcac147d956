"""Codes from the signs of random projections."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from llmrec.ids.codecs.kmeans import chunks
from llmrec.ids.tokenizer import Codec


class HyperplaneCodec(Codec):
    """Signs of projections (Charikar 2002): `bits` signs a level, the first of which is the highest bit of the code.

    Args:
        mean: float32 `[dim]`; all hyperplanes pass through it.
        planes: unit normals, float32 `[levels, bits, dim]`.
        codebooks: float32 `[2^bits, dim]` a level: for each code, the mean residual of the fitted items with this
            code; zeros for a code without items. Only `reconstruct` uses them.
    """

    form = "hyperplanes"

    def __init__(
        self,
        mean: NDArray[np.float32],
        planes: NDArray[np.float32],
        codebooks: Sequence[NDArray[np.float32]],
    ) -> None:
        self.mean, self.planes, self.codebooks = mean, planes, list(codebooks)
        self.sizes = [2 ** planes.shape[1]] * len(planes)

    def costs(self, vectors: NDArray[np.float32], prefix: NDArray[np.int32]) -> NDArray[np.float32]:
        """Sum of the distances to the hyperplanes whose bits of the code are wrong; float32 `[n, codes]`."""
        level = prefix.shape[1]
        ones = (np.arange(self.sizes[level])[:, None] & self._weights() > 0).astype(np.float32)
        costs = np.empty((len(vectors), self.sizes[level]), np.float32)
        for rows in chunks(len(vectors)):
            heights = (vectors[rows] - self.mean) @ self.planes[level].T
            costs[rows] = np.maximum(heights, 0) @ (1 - ones.T) + np.maximum(-heights, 0) @ ones.T
        return costs

    def encode(self, vectors: NDArray[np.float32]) -> NDArray[np.int32]:
        """The signs of the projections, int32 `[n, levels]`."""
        codes = np.empty((len(vectors), self.levels), np.int32)
        for rows in chunks(len(vectors)):
            centred = vectors[rows] - self.mean
            for level, normals in enumerate(self.planes):
                codes[rows, level] = (centred @ normals.T > 0) @ self._weights()
        return codes

    def reconstruct(self, codes: NDArray[np.int32]) -> NDArray[np.float32]:
        """Sum of the mean and of the codes' mean residuals, float32 `[n, dim]`."""
        total = np.tile(self.mean, (len(codes), 1))
        for level in range(codes.shape[1]):
            total += self.codebooks[level][codes[:, level]]
        return total

    def tensors(self) -> dict[str, NDArray[np.float32]]:
        """The mean, the planes, and the codebooks `level_0`, `level_1`, …"""
        books = {f"level_{level}": book for level, book in enumerate(self.codebooks)}
        return {"mean": self.mean, "planes": self.planes} | books

    @classmethod
    def from_tensors(cls, tensors: dict[str, NDArray[np.float32]]) -> HyperplaneCodec:
        """The codec with these tensors."""
        planes = tensors["planes"]
        return cls(tensors["mean"], planes, [tensors[f"level_{level}"] for level in range(len(planes))])

    def _weights(self) -> NDArray[np.int32]:
        return 2 ** np.arange(self.planes.shape[1], dtype=np.int32)[::-1]
