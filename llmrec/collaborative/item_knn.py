"""Item-based nearest neighbours: recommends the items that are most similar to a history's items.

Sarwar et al., Item-based collaborative filtering recommendation algorithms, WWW 2001; in the top-N form of
Deshpande & Karypis, Item-based top-N recommendation algorithms, TOIS 2004 (each item of the history votes
for its nearest neighbours).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy import sparse

from llmrec.collaborative.popularity import Popularity
from llmrec.collaborative.system import Ranked, System, TrainingData
from llmrec.progress.bar import follow

SMOOTHING = 0.1
"""Share of popularity in `ItemKNN.log_probs`, so that an item without votes has a positive probability."""
_BLOCK = 1024


class ItemKnnSystem(System):
    """Item-based nearest neighbours."""

    title: ClassVar[str] = "item-kNN"
    formula: ClassVar[str] = (
        "score(i) = Σ cos(j, i) over the history's items j of which i is a nearest neighbour"
    )

    def fit(self, data: TrainingData) -> ItemKNN:
        """Find each item's nearest neighbours."""
        return ItemKNN.fit(data.histories, data.items)


class ItemKNN:
    """Scores an item by the sum of its cosine similarities to the history. Popularity breaks ties and fills lists.

    Attributes:
        popularity: the popularity model of the same interactions.
        similarity: sparse `[items, items]`, rows and columns in the order of `popularity.items`.
    """

    def __init__(self, popularity: Popularity, similarity: sparse.csr_array) -> None:
        """Keep `similarity [items, items]`, its rows and columns in the order of `popularity.items`."""
        self.popularity = popularity
        self.similarity = similarity
        self._position = {item: i for i, item in enumerate(popularity.items)}

    @classmethod
    def fit(cls, histories: pl.DataFrame, catalogue: Sequence[str], neighbours: int = 100) -> ItemKNN:
        """Find each item's nearest neighbours by cosine over the binary user × item training matrix.

        Args:
            histories: `user_id, items: list[str]`, training rows only.
            catalogue: every item id that may be recommended.
            neighbours: number of neighbours that an item keeps.
        """
        popularity = Popularity.fit(histories, catalogue)
        model = cls(popularity, sparse.csr_array((len(catalogue), len(catalogue))))
        users = model._incidence(histories["items"].to_list())
        norms = np.sqrt(np.maximum(np.asarray(users.sum(axis=0)).ravel(), 1.0))
        unit = sparse.csr_array(users @ sparse.diags_array(1 / norms))
        transposed = unit.T.tocsr()
        blocks = []
        for start in follow(range(0, len(catalogue), _BLOCK), "item-kNN fit", "block"):
            block = sparse.csr_array(transposed[start : start + _BLOCK] @ unit)
            blocks.append(_nearest(block, start, neighbours))
        model.similarity = sparse.csr_array(sparse.vstack(blocks))
        return model

    def recommend(
        self, histories: Sequence[Sequence[str]], k: int, exclude: Sequence[Sequence[str]] | None = None
    ) -> Ranked:
        """The k items with the largest summed similarity to each history.

        Args:
            histories: item ids of each user; unknown ids are ignored, repeats count once.
            k: length of the lists; a list is shorter only if the catalogue has too few items.
            exclude: items that a user must not get, such as those already seen.

        Returns:
            Item ids and scores, one list per user, best first. If too few items share a user with the history, the
            most popular other items follow with score 0.
        """
        banned = exclude if exclude is not None else [()] * len(histories)
        items: list[list[str]] = []
        scores: list[list[float]] = []
        starts = range(0, len(histories), _BLOCK)
        for start in follow(starts, "item-kNN lists", "block"):
            batch = self._incidence(histories[start : start + _BLOCK])
            votes = sparse.csr_array(batch @ self.similarity)
            for row, unwanted in enumerate(banned[start : start + _BLOCK]):
                span = slice(votes.indptr[row], votes.indptr[row + 1])
                names, values = self._best(votes.indices[span], votes.data[span], k, set(unwanted))
                items.append(names)
                scores.append(values)
        return items, scores

    def log_probs(self, histories: Sequence[Sequence[str]], items: Sequence[str]) -> npt.NDArray[np.float32]:
        """Log-probability of each item as the next one: its share of the votes, smoothed by popularity.

        Args:
            histories: item ids of each user; unknown ids are ignored, repeats count once.
            items: the catalogue, in the order of the columns.

        Returns:
            float32 [U, items].
        """
        columns = [self._position[item] for item in items]
        votes = sparse.csr_array(self._incidence(histories) @ self.similarity).toarray()[:, columns]
        total = votes.sum(axis=1, keepdims=True)
        popularity = np.exp(self.popularity.log_probs(histories, items))
        share = np.divide(votes, total, out=popularity.astype(np.float64), where=total > 0)
        mixed = (1 - SMOOTHING) * share + SMOOTHING * popularity
        logs: npt.NDArray[np.float32] = np.log(mixed).astype(np.float32)
        return logs

    def _best(
        self, candidates: np.ndarray, votes: np.ndarray, k: int, exclude: set[str]
    ) -> tuple[list[str], list[float]]:
        """Return the best k of one user's candidates; the more popular item wins equal votes (to 12 digits)."""
        unwanted = [self._position[item] for item in exclude if item in self._position]
        keep = ~np.isin(candidates, unwanted)
        candidates, votes = candidates[keep], np.round(votes[keep], 12)
        order = np.lexsort((candidates, -votes))[:k]
        names = [self.popularity.items[i] for i in candidates[order]]
        values = votes[order].tolist()
        missing = k - len(names)
        if missing:
            fill = self.popularity.first(missing, exclude.union(names))
            names += [self.popularity.items[i] for i in fill]
            values += [0.0] * len(fill)
        return names, values

    def _incidence(self, histories: Sequence[Sequence[str]]) -> sparse.csr_array:
        """Binary matrix `float64 [users, items]`: 1 for the items that each history holds."""
        rows = [sorted({self._position[i] for i in items if i in self._position}) for items in histories]
        starts = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
        columns = np.fromiter((i for row in rows for i in row), dtype=np.int64, count=int(starts[-1]))
        shape = (len(rows), len(self.popularity.items))
        return sparse.csr_array((np.ones(len(columns)), columns, starts), shape=shape)


def _nearest(block: sparse.csr_array, offset: int, neighbours: int) -> sparse.csr_array:
    """Keep each row's largest entries without the item itself; the more popular item wins a tie."""
    data, indices, starts = [], [], [0]
    for row in range(block.shape[0]):
        span = slice(block.indptr[row], block.indptr[row + 1])
        others = block.indices[span] != offset + row
        columns, values = block.indices[span][others], np.round(block.data[span][others], 12)
        order = np.lexsort((columns, -values))[:neighbours]
        data.append(values[order])
        indices.append(columns[order])
        starts.append(starts[-1] + len(order))
    parts = (np.concatenate(data), np.concatenate(indices), np.asarray(starts))
    return sparse.csr_array(parts, shape=block.shape)
