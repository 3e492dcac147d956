"""EASE: a linear autoencoder without hidden layer, learned in closed form.

    B = argmin ‖X − X B‖² + λ ‖B‖²  with  diag(B) = 0        X: binary users × items
    P = (XᵀX + λ I)⁻¹,  B = I − P diag(1 / diag P)           score(i) = Σ_{j in history} B[j, i]

Steck, Embarrassingly shallow autoencoders for sparse data, WWW 2019 (equations 5 to 8). The code is our own, because
it is one matrix inverse: a library would add its own data set and no line less.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field
from scipy import sparse
from scipy.linalg import lapack

from llmrec.collaborative.baselines.interactions import Interactions, Sequences, binary_rows
from llmrec.collaborative.baselines.tuned import Arrays, Scorer, TunedSystem
from llmrec.collaborative.scored import Floats
from llmrec.errors import UserError
from llmrec.hardware import GB

MOST_ITEMS = 30_000
"""Largest number of items; their inverse takes 16 bytes × items² of memory, 14 GB at this size."""
SMALLEST_WEIGHT = 1e-4
"""Weights below this are dropped, before validation, so that B need not be kept as a dense matrix."""
_BLOCK = 1024


class EaseSystem(TunedSystem):
    """EASE.

    Attributes:
        regularization: values of λ that are tried.
    """

    title: ClassVar[str] = "EASE"
    formula: ClassVar[str] = "score(i) = Σ B[j, i] over the history's items j, B = I − P diag(1/diag P)"
    grids: ClassVar[tuple[tuple[str, ...], ...]] = (("regularization",),)
    regularization: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1)] = [
        *(10.0, 30.0, 100.0, 300.0, 1000.0)
    ]

    def learn(self, interactions: Interactions, settings: Mapping[str, Any], seed: int) -> Arrays:
        """Return B as the parts of a sparse matrix.

        Raises:
            UserError: the catalogue is too large for a dense inverse.
        """
        items = len(interactions.items)
        if items > MOST_ITEMS:
            raise UserError(
                f"ease: {items:,} items with interactions; the inverse of a dense matrix of this size takes "
                f"{16 * items**2 / GB:.0f} GB. Leave it out of eval.baselines"
            )
        weights = item_weights(interactions.matrix, settings["regularization"])
        weights[np.abs(weights) < SMALLEST_WEIGHT] = 0
        kept = sparse.csr_array(weights)
        return {"values": kept.data, "columns": kept.indices, "starts": kept.indptr}

    def scorer(self, arrays: Arrays, settings: Mapping[str, Any]) -> Scorer:
        """Score by the sum of the history's weights."""
        items = len(arrays["starts"]) - 1
        weights = sparse.csr_array((arrays["values"], arrays["columns"], arrays["starts"]), (items, items))

        def score(sequences: Sequences) -> Floats:
            scores: Floats = (binary_rows(sequences, items) @ weights).toarray()
            return scores

        return score

    def training_flops(self, users: int, items: int, interactions: int) -> float:
        """FLOPs of the inverses."""
        return len(self.regularization) * float(items) ** 3


def item_weights(matrix: sparse.csr_matrix, regularization: float) -> Floats:
    """Return B, float32 [items, items], its diagonal 0, for the binary matrix [users, items] and λ."""
    gram = (matrix.T @ matrix).astype(np.float64).toarray(order="F")
    gram[np.diag_indices_from(gram)] += regularization
    factor, failed = lapack.dpotrf(gram, lower=1, overwrite_a=1)
    lower, singular = lapack.dpotri(factor, lower=1, overwrite_c=1)
    assert not failed and not singular, "a sum of squares plus λ I is positive definite"
    scale = -1 / np.diag(lower)
    weights = np.empty(lower.shape, np.float32)
    for start in range(0, len(lower), _BLOCK):  # the upper triangle is the lower one's mirror
        block = slice(start, start + _BLOCK)
        symmetric = np.tril(lower[block, block])
        symmetric += np.tril(symmetric, -1).T
        weights[block, block] = symmetric * scale[block]
        below = slice(start + _BLOCK, None)
        weights[below, block] = lower[below, block] * scale[block]
        weights[block, below] = lower[below, block].T * scale[below]
    np.fill_diagonal(weights, 0)
    return weights
