"""Optimized product quantization: first a rotation is learnt, then a codebook for each part."""

from __future__ import annotations

import sys

import numpy as np
from numpy.typing import NDArray

from llmrec.ids.codecs.product import ProductCodec, learn_parts, pad, split_parts
from llmrec.ids.codecs.residual import mean_vector
from llmrec.ids.tokenizer import Codes, KmeansTokenizer, Signals, number_of_codes


class OpqTokenizer(KmeansTokenizer):
    """Product quantization after a learned rotation."""

    def fit(self, signals: Signals, seed: int) -> Codes:
        """Optimized product quantization (Ge et al. 2013; as a tokenizer of items: Hou et al. 2025, RPG)."""
        vectors = np.asarray(signals.vectors, dtype=np.float32)
        size = number_of_codes(self.codes, len(vectors))
        rotation = learn_rotation(pad(vectors, self.levels), self.levels, size, seed)
        parts = split_parts(vectors, self.levels, rotation)
        books, codes = learn_parts(parts, size, self.iterations, seed)
        codec = ProductCodec(books, mean_vector(vectors), rotation)
        return Codes(codes, codec.sizes, codec)


def learn_rotation(
    vectors: NDArray[np.float32], levels: int, size: int, seed: int
) -> NDArray[np.float32] | None:
    """The rotation with the smallest error of product quantization (Ge et al. 2013), learnt by faiss.

    This is their non-parametric solution: faiss alternates 50 times, on at most 65,536 vectors, between codebooks and
    the rotation that fits them best. faiss needs a power of two as number of codes, so the rotation is learnt with
    the largest one up to `size`.

    Args:
        vectors: float32 `[n, dim]`; `dim` is a multiple of `levels`.
        levels: number of parts.
        size: number of codes a part, at most n.
        seed: seed of the codebooks; the initial rotation is a fixed one of faiss.

    Returns:
        An orthogonal matrix, float32 `[dim, dim]`; None, with a notice, if faiss finds none for these vectors.
    """
    bits = size.bit_length() - 1
    rotation = _train(vectors, levels, bits, seed) if bits else None
    if rotation is not None and _is_orthogonal(rotation):
        return rotation
    print("ids.quantizer: opq found no rotation for these vectors; using pq", file=sys.stderr)
    return None


def _is_orthogonal(matrix: NDArray[np.float32]) -> bool:
    return bool(np.allclose(matrix @ matrix.T, np.eye(len(matrix)), atol=1e-3))


def _train(vectors: NDArray[np.float32], levels: int, bits: int, seed: int) -> NDArray[np.float32]:
    """Matrix `[dim, dim]` that faiss learns with 2^bits codes a part, float32; it may not be orthogonal."""
    import faiss

    dim = vectors.shape[1]
    codebooks = faiss.ProductQuantizer(dim, levels, bits)
    codebooks.cp.seed, codebooks.cp.min_points_per_centroid = seed, 1
    learner = faiss.OPQMatrix(dim, levels, dim)
    learner.pq = codebooks
    # faiss writes past a buffer if n < dim (facebookresearch/faiss#2637). Equally many copies of each vector give
    # more rows and the same solution.
    copies = -(-dim // len(vectors))
    learner.train(np.ascontiguousarray(np.tile(vectors, (copies, 1))))
    matrix: NDArray[np.float32] = faiss.vector_to_array(learner.A).reshape(dim, dim).astype(np.float32)
    return matrix
