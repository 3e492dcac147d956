"""Item-based nearest neighbours in which newer history items have more weight.

    score(i) = Σ_k decay^k S[i_k, i]        i_0 is the latest item of the history, i_1 the one before it, …

S is item-kNN's matrix (`llmrec.collaborative.item_knn`): cosines over the binary user × item training matrix. Each
item keeps its nearest neighbours. Sequential neighbourhood methods weight items in a similar way (Ludewig & Jannach,
Evaluation of session-based recommendation algorithms, UMUAI 2018, and Garg et al., STAN, SIGIR 2019: the neighbours
of an older item count less). Here the weight is exponential in the number of steps. With `decay` 1 all items have
equal weight, as in item-kNN.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

import polars as pl
from pydantic import Field
from scipy import sparse

from llmrec.collaborative.item_knn import ItemKNN
from llmrec.collaborative.scored import Decay, Histories, Validation, Votes, choose, recency_weights, record
from llmrec.collaborative.system import System, TrainingData
from llmrec.config import Positive
from llmrec.files import read_json


class RecentKnnSystem(System):
    """Item-kNN with a weight for each history item.

    Attributes:
        decay: values to choose from on validation; 1 gives all items equal weight.
        neighbours: number of neighbours that an item keeps.
        history: number of last history items that vote; null takes all.
        valid_users: number of validation users for the choice.
    """

    title: ClassVar[str] = "item-kNN with recency"
    formula: ClassVar[str] = "score(i) = Σ decay^k cos(i_k, i), i_0 the history's last item"
    files: ClassVar[tuple[str, ...]] = (".json",)
    decay: Annotated[list[Decay], Field(min_length=1)] = [0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0]
    neighbours: Positive = 100
    history: Positive | None = 50
    valid_users: Positive = 5000

    def train(self, data: TrainingData) -> dict[str, Any]:
        """Choose the decay on validation users; write the choice and every attempt."""
        valid = data.valid(self.valid_users)
        return record(data, len(valid), RecentKNN.choose(data.histories, data.items, self, valid))

    def fit(self, data: TrainingData) -> RecentKNN:
        """Find neighbours with the chosen settings."""
        return RecentKNN.fit(data.histories, data.items, **read_json(data.file(".json"))["chosen"])


class RecentKNN(Votes):
    """Sums the cosine similarities to a history's items, weighted by recency. Popularity breaks ties."""

    def __init__(self, knn: ItemKNN, decay: float, history: int | None = None) -> None:
        """Keep a fitted item-kNN, the decay, and the number of last history items that vote (None: all)."""
        self.popularity, self.matrix = knn.popularity, knn.similarity
        self.decay, self.history = decay, history

    @classmethod
    def fit(
        cls,
        histories: pl.DataFrame,
        catalogue: Sequence[str],
        decay: float = 0.6,
        neighbours: int = 100,
        history: int | None = None,
    ) -> RecentKNN:
        """Find each item's nearest neighbours.

        Args:
            histories: `user_id, items: list[str]`, training rows only.
            catalogue: every item id that may be recommended.
            decay: weight of an item's votes, divided by the weight of the next newer item's votes.
            neighbours: number of neighbours that an item keeps.
            history: number of last history items that vote; None takes all.
        """
        return cls(ItemKNN.fit(histories, catalogue, neighbours), decay, history)

    @classmethod
    def choose(
        cls, histories: pl.DataFrame, catalogue: Sequence[str], config: RecentKnnSystem, valid: pl.DataFrame
    ) -> dict[str, Any]:
        """Choose the decay on validation users.

        Args:
            histories: as for `fit`.
            catalogue: as for `fit`.
            config: the recipe's grid.
            valid: `history: list[str], target: str, masked: list[str]` (items that are in no list).

        Returns:
            The return value of `llmrec.collaborative.scored.choose`, with the settings of `fit` as `chosen`.
        """
        knn = ItemKNN.fit(histories, catalogue, config.neighbours)
        validation = Validation(valid, knn.popularity.items)
        choice = choose(
            lambda settings: validation.ndcg_of(cls(knn, settings["decay"], config.history)),
            [{"decay": config.decay}],
        )
        choice["chosen"] |= {"neighbours": config.neighbours, "history": config.history}
        return choice

    def weights(self, histories: Histories) -> sparse.csr_array:
        """Return `decay ** k`; an item that occurs several times has the weight of its last occurrence."""
        return recency_weights(histories, self.column, self.decay, self.history)
