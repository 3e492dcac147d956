"""Locality-sensitive hashing: a code says on which sides of random hyperplanes a vector lies."""

from __future__ import annotations

import sys
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from llmrec.errors import UserError
from llmrec.ids.codecs.hyperplanes import HyperplaneCodec
from llmrec.ids.codecs.residual import code_means, mean_vector
from llmrec.ids.tokenizer import CodebookTokenizer, Codes, Signals, auto_codes


class LshTokenizer(CodebookTokenizer):
    """Random hyperplanes; a code consists of log2 `codes` signs."""

    reads_vectors: ClassVar[bool] = True

    def fit(self, signals: Signals, seed: int) -> Codes:
        """Random-hyperplane hashing (Charikar 2002). Only the mean and the reconstruction are learnt.

        Raises:
            UserError: `codes` is not a power of two.
        """
        vectors = np.asarray(signals.vectors, dtype=np.float32)
        bits = _bits(self.codes, len(vectors))
        mean = mean_vector(vectors)
        normals = np.random.default_rng(seed).standard_normal((self.levels, bits, len(mean)))
        planes = (normals / np.linalg.norm(normals, axis=2, keepdims=True)).astype(np.float32)
        codes = HyperplaneCodec(mean, planes, []).encode(vectors)
        codec = HyperplaneCodec(mean, planes, _mean_residuals(vectors - mean, codes, 2**bits))
        return Codes(codes, codec.sizes, codec)


def _bits(setting: int | Literal["auto"], items: int) -> int:
    """log2 of the number of codes a level, which is at most the number of items."""
    codes = auto_codes(items) if setting == "auto" else setting
    if codes & (codes - 1):
        lower = 2 ** (codes.bit_length() - 1)
        raise UserError(
            f"ids.quantizer.codes: lsh makes a code of signs, so it needs a power of two, not {codes}; "
            f"take {lower} or {2 * lower}"
        )
    if codes > items:
        used = 2 ** (items.bit_length() - 1)
        print(f"ids.quantizer.codes: {codes} codes for {items} items; using {used}", file=sys.stderr)
        codes = used
    return codes.bit_length() - 1


def _mean_residuals(
    residuals: NDArray[np.float32], codes: NDArray[np.int32], size: int
) -> list[NDArray[np.float32]]:
    """Mean residual of each code of a level, float32 `[size, dim]`; changes `residuals` in place."""
    books = []
    for column in codes.T:
        books.append(code_means(residuals, column, size))
        residuals -= books[-1][column]
    return books
