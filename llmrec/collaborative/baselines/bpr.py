"""Bayesian personalized ranking of a matrix factorization (BPR-MF), from the library implicit.

    max Σ_{u, i chosen, j not} ln σ(s_ui − s_uj) − λ ‖·‖²,  s_ui = x_u · y_i + b_i

Rendle et al., BPR: Bayesian personalized ranking from implicit feedback, UAI 2009. BPR has no closed form for a user
who was not trained. So a linear map W turns histories into user vectors: the least-squares fit, over the training
users, of their learned vectors x_u by the mean of their items' vectors.

    x = [mean of y_i over the history, 1] W,   W = argmin Σ_u ‖x_u − [mean, 1] W‖² + ‖W‖²
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from llmrec.collaborative.baselines.interactions import Interactions, Sequences, binary_rows
from llmrec.collaborative.baselines.tuned import Arrays, Scorer, TunedSystem
from llmrec.collaborative.scored import Floats
from llmrec.config import Positive


class BprSystem(TunedSystem):
    """Matrix factorization with the BPR loss.

    Attributes:
        factors: numbers of dimensions that are tried.
        regularization: weights of λ that are tried.
        epochs: numbers of passes that are tried.
        lr: step size of the stochastic gradient descent.
    """

    title: ClassVar[str] = "BPR-MF"
    formula: ClassVar[str] = (
        "score(i) = x · y_i + b_i, x a linear map of the mean vector of the history's items"
    )
    libraries: ClassVar[tuple[str, ...]] = ("implicit",)
    grids: ClassVar[tuple[tuple[str, ...], ...]] = (("factors", "regularization"), ("epochs",))
    factors: Annotated[list[Positive], Field(min_length=1)] = [64, 128]
    regularization: Annotated[list[Annotated[float, Field(ge=0)]], Field(min_length=1)] = [0.003, 0.01, 0.03]
    epochs: Annotated[list[Positive], Field(min_length=1)] = [30, 100]
    lr: Annotated[float, Field(gt=0)] = 0.05

    def learn(self, interactions: Interactions, settings: Mapping[str, Any], seed: int) -> Arrays:
        """Return the items' vectors, their biases in the last column, and the map from histories to users."""
        from implicit.cpu.bpr import BayesianPersonalizedRanking

        model = BayesianPersonalizedRanking(
            factors=settings["factors"],
            learning_rate=self.lr,
            regularization=settings["regularization"],
            iterations=settings["epochs"],
            num_threads=1,  # threads would write into each other's vectors, and the result would depend on chance
            random_state=seed,
        )
        model.fit(interactions.matrix, show_progress=False)
        vectors = model.item_factors
        means = history_means(interactions.sequences, vectors)
        left = means.T @ means + np.eye(means.shape[1])
        users = np.linalg.solve(left, means.T @ model.user_factors.astype(np.float64))
        return {"vectors": vectors, "users": users.astype(np.float32)}

    def scorer(self, arrays: Arrays, settings: Mapping[str, Any]) -> Scorer:
        """Map each history to a user vector, and multiply it with the items'."""
        vectors, users = arrays["vectors"], arrays["users"]

        def score(sequences: Sequences) -> Floats:
            scores: Floats = history_means(sequences, vectors) @ users @ vectors.T
            return scores

        return score


def history_means(sequences: Sequences, vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Return the mean vector of each history's items and a 1, float64 [sequences, dim + 1]."""
    rows = binary_rows(sequences, len(vectors))
    counts = np.maximum(np.asarray(rows.sum(axis=1)), 1)
    means: npt.NDArray[np.float64] = np.hstack([(rows @ vectors) / counts, np.ones((len(sequences), 1))])
    return means
