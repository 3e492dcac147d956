"""Sequential rules: recommends items that often follow the latest items of a history.

    M[a, b]  = Σ 1 / d / √(n_a n_b)          over pairs with b at d ≤ window places after a in a training history
    score(i) = Σ_k decay^k M[i_k, i]         i_0 is the latest item of the history, i_1 the one before it, …

Sequential rules whose weights fall with the distance are from Kamehkhosh, Jannach & Ludewig, A comparison of frequent
pattern techniques and a deep learning method for session-based recommendation, 2017 (SR in Ludewig & Jannach,
UMUAI 2018). The division by √(n_a n_b), where n is the number of an item's training interactions, turns counts into
cosines, so that popular items do not follow every item. `direction` says whether b must come after a (`forward`),
before a (`backward`), or either (`both`).

If times are tied (dates, or one time for many ratings), the order within a tie is the order of the file. The choice
of a direction may then depend on that order, and so may the results of every sequential model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import Field
from scipy import sparse

from llmrec.collaborative.popularity import Popularity
from llmrec.collaborative.scored import (
    Decay,
    Histories,
    Validation,
    Votes,
    choose,
    item_rows,
    recency_weights,
    record,
)
from llmrec.collaborative.system import System, TrainingData
from llmrec.config import Positive
from llmrec.files import read_json

Ints = npt.NDArray[np.int64]
Direction = Literal["forward", "backward", "both"]
"""The side of an item on which the other item of a pair must be."""


class SuccessionSystem(System):
    """Sequential rules.

    Attributes:
        window: values to choose from on validation, together with `direction`.
        direction: directions to choose from.
        decay: values to choose from.
        history: number of last history items that vote; null takes all.
        valid_users: number of validation users for the choice.
    """

    title: ClassVar[str] = "sequential rules"
    formula: ClassVar[str] = "score(i) = Σ decay^k M[i_k, i], M how often i stands near i_k, 1/distance each"
    files: ClassVar[tuple[str, ...]] = (".json",)
    window: Annotated[list[Positive], Field(min_length=1)] = [1, 2, 5, 10, 20, 50]
    direction: Annotated[list[Direction], Field(min_length=1)] = ["forward", "backward", "both"]
    decay: Annotated[list[Decay], Field(min_length=1)] = [0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0]
    history: Positive | None = 50
    valid_users: Positive = 5000

    def train(self, data: TrainingData) -> dict[str, Any]:
        """Choose window, direction and decay on validation users; write the choice and every attempt."""
        valid = data.valid(self.valid_users)
        return record(data, len(valid), Succession.choose(data.histories, data.items, self, valid))

    def fit(self, data: TrainingData) -> Succession:
        """Count pairs with the chosen settings."""
        return Succession.fit(data.histories, data.items, **read_json(data.file(".json"))["chosen"])


class Succession(Votes):
    """Sums the rules of a history's items, weighted by recency. Popularity breaks ties."""

    def __init__(
        self, popularity: Popularity, matrix: sparse.csr_array, decay: float, history: int | None = None
    ) -> None:
        """Keep `matrix [items, items]`, its rows and columns in the order of `popularity.items`."""
        self.popularity, self.matrix = popularity, matrix
        self.decay, self.history = decay, history

    @classmethod
    def fit(
        cls,
        histories: pl.DataFrame,
        catalogue: Sequence[str],
        window: int = 5,
        direction: Direction = "forward",
        decay: float = 0.7,
        history: int | None = None,
    ) -> Succession:
        """Count the pairs of items that are near each other in training histories.

        Args:
            histories: `user_id, items: list[str]`, training rows only, oldest first.
            catalogue: every item id that may be recommended.
            window: largest distance of two items that are counted, in places.
            direction: the side of an item that is counted.
            decay: weight of an item's votes, divided by the weight of the next newer item's votes.
            history: number of last history items that vote; None takes all.
        """
        popularity = Popularity.fit(histories, catalogue)
        users, items = item_rows(histories, popularity.items)
        counts = pair_counts(users, items, len(popularity.items), window)
        return cls(popularity, _normalised(counts, direction, items), decay, history)

    @classmethod
    def choose(
        cls, histories: pl.DataFrame, catalogue: Sequence[str], config: SuccessionSystem, valid: pl.DataFrame
    ) -> dict[str, Any]:
        """Choose settings on validation users: window and direction together, then the decay, then the window again.

        Args:
            histories: as for `fit`.
            catalogue: as for `fit`.
            config: the recipe's grid.
            valid: `history: list[str], target: str, masked: list[str]` (items that are in no list).

        Returns:
            The return value of `llmrec.collaborative.scored.choose`, with the settings of `fit` as `chosen`.
        """
        popularity = Popularity.fit(histories, catalogue)
        users, items = item_rows(histories, popularity.items)
        validation = Validation(valid, popularity.items)
        counts_by_window: dict[int, sparse.csr_array] = {}

        def evaluate(settings: dict[str, Any]) -> float:
            window = settings["window"]
            if window not in counts_by_window:
                counts_by_window[window] = pair_counts(users, items, len(popularity.items), window)
            matrix = _normalised(counts_by_window[window], settings["direction"], items)
            return validation.ndcg_of(cls(popularity, matrix, settings["decay"], config.history))

        median = sorted(config.decay)[len(config.decay) // 2]
        first_grid: dict[str, list[Any]] = {
            "window": config.window,
            "direction": list(config.direction),
            "decay": [median],
        }
        choice = choose(evaluate, [first_grid, {"decay": config.decay}, {"window": config.window}])
        choice["chosen"]["history"] = config.history
        return choice

    def weights(self, histories: Histories) -> sparse.csr_array:
        """Return `decay ** k`; an item that occurs several times has the weight of its last occurrence."""
        return recency_weights(histories, self.column, self.decay, self.history)


def pair_counts(users: Ints, items: Ints, count: int, window: int) -> sparse.csr_array:
    """Sum 1/d over the pairs of different items that are d ≤ `window` places apart in a user's history.

    Args:
        users: int64 [n], the user of each interaction; a user's interactions are consecutive, oldest first.
        items: int64 [n], the item of each interaction.
        count: number of items in the catalogue.
        window: the largest d.

    Returns:
        float64 [items, items]; row a and column b hold the sum over the pairs in which b comes after a.
    """
    total = sparse.csr_array((count, count))
    for distance in range(1, min(window, len(items) - 1) + 1):
        same_user = users[distance:] == users[:-distance]
        if not same_user.any():
            break
        is_pair = same_user & (items[distance:] != items[:-distance])
        pairs = items[:-distance][is_pair], items[distance:][is_pair]
        total = total + sparse.csr_array((np.full(len(pairs[0]), 1 / distance), pairs), shape=(count, count))
    return total.tocsr()


def _normalised(counts: sparse.csr_array, direction: Direction, items: Ints) -> sparse.csr_array:
    """Return the counts of a direction, divided by √(n_a n_b)."""
    matrix = {"forward": counts, "backward": counts.T, "both": counts + counts.T}[direction]
    scale = 1 / np.sqrt(np.maximum(np.bincount(items, minlength=counts.shape[0]), 1))
    scaled = sparse.csr_array(matrix).multiply(scale[:, None]).multiply(scale[None])
    return sparse.csr_array(scaled)
