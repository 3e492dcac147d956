"""Matrix factorization of implicit feedback by alternating least squares (iALS), from the library implicit.

    min Σ_{u,i} c_ui (p_ui − x_u · y_i)² + λ (Σ ‖x_u‖² + Σ ‖y_i‖²)     p_ui = 1 and c_ui = α where u has chosen i,
                                                                       p_ui = 0 and c_ui = 1 elsewhere
    x_u = (YᵀY + (α − 1) Y_hᵀY_h + λ I)⁻¹ α Y_hᵀ 1                     Y_h: the rows of the history's items
    score(i) = x_u · y_i

Hu, Koren & Volinsky, Collaborative filtering for implicit feedback datasets, ICDM 2008 (equations 3 to 5). A user's
vector is solved from whatever history is given, so users who were not trained are served as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from llmrec.collaborative.baselines.interactions import Interactions, Sequences
from llmrec.collaborative.baselines.tuned import Arrays, Scorer, TunedSystem
from llmrec.collaborative.scored import Floats
from llmrec.config import Positive


class AlsSystem(TunedSystem):
    """Matrix factorization by alternating least squares.

    Attributes:
        factors: numbers of dimensions that are tried.
        regularization: values of λ that are tried.
        alpha: confidences of a choice that are tried.
        iterations: number of passes over users and items.
    """

    title: ClassVar[str] = "iALS"
    formula: ClassVar[str] = "score(i) = x_u · y_i, x_u the least-squares solution for the history"
    libraries: ClassVar[tuple[str, ...]] = ("implicit",)
    grids: ClassVar[tuple[tuple[str, ...], ...]] = (("factors", "regularization"), ("alpha",))
    factors: Annotated[list[Positive], Field(min_length=1)] = [32, 64, 128]
    regularization: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1)] = [1.0, 10.0, 50.0]
    alpha: Annotated[list[Annotated[float, Field(ge=1)]], Field(min_length=1)] = [10.0, 2.0, 4.0, 40.0]
    iterations: Positive = 15

    def learn(self, interactions: Interactions, settings: Mapping[str, Any], seed: int) -> Arrays:
        """Return the items' vectors."""
        from implicit.cpu.als import AlternatingLeastSquares

        model = AlternatingLeastSquares(
            factors=settings["factors"],
            regularization=settings["regularization"],
            alpha=settings["alpha"],
            iterations=self.iterations,
            random_state=seed,
        )
        model.fit(interactions.matrix, show_progress=False)
        return {"vectors": model.item_factors}

    def scorer(self, arrays: Arrays, settings: Mapping[str, Any]) -> Scorer:
        """Solve each history's vector, and multiply it with the items'."""
        vectors = arrays["vectors"].astype(np.float64)
        alpha = settings["alpha"]
        every = vectors.T @ vectors + settings["regularization"] * np.eye(vectors.shape[1])

        def score(sequences: Sequences) -> Floats:
            chosen = [vectors[np.unique(sequence)] for sequence in sequences]
            left = np.stack([every + (alpha - 1) * rows.T @ rows for rows in chosen])
            right = np.stack([alpha * rows.sum(axis=0) for rows in chosen])
            users = np.linalg.solve(left, right[:, :, None])[:, :, 0]
            scores: Floats = users @ vectors.T
            return scores

        return score

    def training_flops(self, users: int, items: int, interactions: int) -> float:
        """FLOPs of the normal equations over the grid."""
        tried = len(self.regularization) + len(self.alpha) / max(len(self.factors), 1)
        return float(sum(4 * self.iterations * tried * interactions * factors**2 for factors in self.factors))
