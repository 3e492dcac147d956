"""Product codebooks: each level encodes its own part of the vector's dimensions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from llmrec.ids.codecs.kmeans import chunks, kmeans, nearest
from llmrec.ids.codecs.residual import squared_distances
from llmrec.ids.tokenizer import Codec
from llmrec.progress.bar import follow


class ProductCodec(Codec):
    """Concatenated centroids, one a subspace (Jégou et al. 2011), optionally after a rotation.

    Args:
        codebooks: float32 `[codes, part]` a level. `part` times the number of levels is the dimension, after padding
            with zero columns to a multiple.
        mean: float32 `[dim]`, used for the levels without a code.
        rotation: orthogonal matrix, float32 `[padded, padded]`; the code of a padded vector x is that of `rotation @
            x`. None does not rotate.
    """

    form = "product"

    def __init__(
        self,
        codebooks: Sequence[NDArray[np.float32]],
        mean: NDArray[np.float32],
        rotation: NDArray[np.float32] | None = None,
    ) -> None:
        self.codebooks = list(codebooks)
        self.sizes = [len(book) for book in codebooks]
        self.mean, self.rotation = mean, rotation

    def costs(self, vectors: NDArray[np.float32], prefix: NDArray[np.int32]) -> NDArray[np.float32]:
        """Squared distances in the subspace of the next level, float32 `[n, codes]`; the prefix has no influence."""
        level = prefix.shape[1]
        costs = np.empty((len(vectors), self.sizes[level]), np.float32)
        for rows in chunks(len(vectors)):
            parts = split_parts(vectors[rows], self.levels, self.rotation)
            costs[rows] = squared_distances(parts[level], self.codebooks[level])
        return costs

    def encode(self, vectors: NDArray[np.float32]) -> NDArray[np.int32]:
        """The nearest centroid in each subspace, int32 `[n, levels]`."""
        codes = np.empty((len(vectors), self.levels), np.int32)
        for rows in chunks(len(vectors)):
            parts = split_parts(vectors[rows], self.levels, self.rotation)
            for level, book in enumerate(self.codebooks):
                codes[rows, level] = nearest(parts[level], book)
        return codes

    def reconstruct(self, codes: NDArray[np.int32]) -> NDArray[np.float32]:
        """Concatenated centroids of the codes, with the mean in the remaining subspaces; float32 `[n, dim]`."""
        parts = split_parts(self.mean[None], self.levels, self.rotation)
        subspaces = [np.tile(part, (len(codes), 1)) for part in parts]
        for level in range(codes.shape[1]):
            subspaces[level] = self.codebooks[level][codes[:, level]]
        joined = np.concatenate(subspaces, axis=1)
        vectors = joined if self.rotation is None else joined @ self.rotation
        return np.ascontiguousarray(vectors[:, : len(self.mean)])

    def tensors(self) -> dict[str, NDArray[np.float32]]:
        """The mean, the codebooks `level_0`, `level_1`, …, and the rotation if there is one."""
        rotation = {} if self.rotation is None else {"rotation": self.rotation}
        books = {f"level_{level}": book for level, book in enumerate(self.codebooks)}
        return {"mean": self.mean} | books | rotation

    @classmethod
    def from_tensors(cls, tensors: dict[str, NDArray[np.float32]]) -> ProductCodec:
        """The codec with these tensors."""
        levels = sum(name.startswith("level_") for name in tensors)
        books = [tensors[f"level_{level}"] for level in range(levels)]
        return cls(books, tensors["mean"], tensors.get("rotation"))


def split_parts(
    vectors: NDArray[np.float32], levels: int, rotation: NDArray[np.float32] | None
) -> list[NDArray[np.float32]]:
    """Pad and rotate vectors `[n, dim]`, and divide them into equal parts `[n, part]`, one a level."""
    padded = pad(vectors, levels)
    rotated = padded if rotation is None else padded @ rotation.T
    return [np.ascontiguousarray(part) for part in np.split(rotated, levels, axis=1)]


def pad(vectors: NDArray[np.float32], levels: int) -> NDArray[np.float32]:
    """Append zero columns to vectors until their dimension is a multiple of the number of levels."""
    missing = -vectors.shape[1] % levels
    return np.pad(vectors, ((0, 0), (0, missing))) if missing else vectors


def learn_parts(
    parts: list[NDArray[np.float32]], size: int, iterations: int, seed: int
) -> tuple[list[NDArray[np.float32]], NDArray[np.int32]]:
    """Run k-means in each subspace; return codebooks `[size, part]` and the items' codes, int32 `[n, levels]`."""
    results = [
        kmeans(part, size, iterations, seed + level)
        for level, part in enumerate(follow(parts, "product quantization", "level"))
    ]
    codes = np.stack([assigned for _, assigned in results], axis=1)
    return [centroids for centroids, _ in results], codes
