"""User-based nearest neighbours: recommends what the most similar users have chosen.

    score(i) = Σ_{v in N(u)} cos(u, v) [v has chosen i]      N(u): the n users most similar to u

Resnick et al., GroupLens: an open architecture for collaborative filtering of netnews, CSCW 1994, in the form for
binary data of Sarwar et al., Analysis of recommendation algorithms for e-commerce, EC 2000. The code is our own: two
sparse products. Libraries look users up by their number, but here a user is whatever history is given.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field
from scipy import sparse

from llmrec.collaborative.baselines.interactions import Interactions, Sequences, binary_rows
from llmrec.collaborative.baselines.tuned import CHOICE, Arrays, Scorer, TunedSystem
from llmrec.collaborative.blocks import user_blocks
from llmrec.collaborative.popularity import Popularity
from llmrec.collaborative.scored import Floats
from llmrec.collaborative.system import TrainingData
from llmrec.config import Positive

_SIMILARITY_BYTES = 6 * 8
"""Bytes that the similarity to a training user takes until the nearest are found."""


class UserKnnSystem(TunedSystem):
    """User-based nearest neighbours.

    Attributes:
        neighbours: numbers of most similar users that are tried.
    """

    title: ClassVar[str] = "user-kNN"
    formula: ClassVar[str] = "score(i) = Σ cos(u, v) over u's nearest users v who have chosen i"
    files: ClassVar[tuple[str, ...]] = (CHOICE,)
    learns_in_training: ClassVar[bool] = False
    grids: ClassVar[tuple[tuple[str, ...], ...]] = (("neighbours",),)
    neighbours: Annotated[list[Positive], Field(min_length=1)] = [50, 100, 200, 400, 800]

    def learn(self, interactions: Interactions, settings: Mapping[str, Any], seed: int) -> Arrays:
        """Return the training matrix as the parts of a sparse matrix; the users are the model."""
        matrix = interactions.matrix
        return {
            "columns": matrix.indices,
            "starts": matrix.indptr,
            "items": np.array(matrix.shape[1:], np.int64),
        }

    def learned(
        self, data: TrainingData, popularity: Popularity, settings: Mapping[str, Any]
    ) -> tuple[list[str], Arrays]:
        """Return the training users at hand, so that a teacher can leave out those whom it teaches."""
        interactions = Interactions.of(data.histories, popularity)
        return interactions.items, self.learn(interactions, settings, data.seed)

    def scorer(self, arrays: Arrays, settings: Mapping[str, Any]) -> Scorer:
        """Score by the similarities of the nearest users."""
        items, most = int(arrays["items"][0]), int(settings["neighbours"])
        values = np.ones(len(arrays["columns"]), np.float32)
        shape = (len(arrays["starts"]) - 1, items)
        chosen = sparse.csr_array((values, arrays["columns"], arrays["starts"]), shape)
        sizes = np.sqrt(np.maximum(chosen.sum(axis=1), 1))

        def find_nearest(sequences: Sequences) -> sparse.csr_array:
            given = sparse.csr_array(binary_rows(sequences, items)).astype(np.float64)
            similar = (given @ chosen.T).toarray() / np.sqrt(given.sum(axis=1))[:, None] / sizes[None, :]
            return _nearest(similar, most)

        def score(sequences: Sequences) -> Floats:
            blocks = user_blocks(len(sequences), len(sizes), _SIMILARITY_BYTES)
            nearest = sparse.vstack([find_nearest(sequences[block]) for block in blocks])
            scores: Floats = (sparse.csr_array(nearest) @ chosen).toarray()
            return scores

        return score


def _nearest(similar: Floats, most: int) -> sparse.csr_array:
    """Keep each row's `most` largest similarities; the earlier user wins a tie."""
    if most >= similar.shape[1]:
        return sparse.csr_array(similar)
    order = similar - np.arange(similar.shape[1]) * 1e-12
    kept = np.argpartition(-order, most, axis=1)[:, :most]
    rows = np.repeat(np.arange(len(similar)), kept.shape[1])
    values = np.take_along_axis(similar, kept, axis=1).ravel()
    nearest = sparse.csr_array((values, (rows, kept.ravel())), shape=similar.shape)
    nearest.eliminate_zeros()
    return nearest
