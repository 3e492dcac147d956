"""Sequential rules: what comes soon after the latest items of a history.

    M[a, b]  = Σ 1 / d / √(n_a n_b)          over d ≤ window, b standing d places behind a in a training history
    score(i) = Σ_k decay^k M[i_k, i]         i_0 the latest item of the history, i_1 the one before it, …

Sequential rules with linearly falling weights are those of Kamehkhosh, Jannach & Ludewig, A comparison of frequent
pattern techniques and a deep learning method for session-based recommendation, 2017 (SR in Ludewig & Jannach,
UMUAI 2018); the division by √(n_a n_b), n an item's training interactions, makes a cosine of the counts, so that what
is popular does not follow everything. `direction` says whether b must stand behind a (`forward`), in front of it
(`backward`), or either (`both`).

Where a log's times are ties (days, or one stamp for many ratings), the order within a tie is the file's. A direction
that wins may owe it to that order, as every sequential model does.
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
"""Which side of an item a neighbour stands on."""


class SuccessionSystem(System):
    """Sequential rules.

    Attributes:
        window: values to choose among on validation, together with `direction`.
        direction: sides of an item to choose among.
        decay: values to choose among.
        history: how many of a history's last items vote; null for all.
        valid_users: validation users that are looked at.
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
        """Count with what was chosen."""
        return Succession.fit(data.histories, data.items, **read_json(data.file(".json"))["chosen"])


class Succession(Votes):
    """Sums how often items stood near those of a history; breaks ties by popularity."""

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
        """Count which items stand near which.

        Args:
            histories: `user_id, items: list[str]`, training rows only, oldest first.
            catalogue: every item id that may be recommended.
            window: most places between two items that are counted.
            direction: which side of an item is counted.
            decay: weight of an item's votes over those of the one behind it.
            history: how many of a history's last items vote; None: all.
        """
        popularity = Popularity.fit(histories, catalogue)
        users, items = item_rows(histories, popularity.items)
        behind = pair_counts(users, items, len(popularity.items), window)
        return cls(popularity, _normed(behind, direction, items), decay, history)

    @classmethod
    def choose(
        cls, histories: pl.DataFrame, catalogue: Sequence[str], config: SuccessionSystem, valid: pl.DataFrame
    ) -> dict[str, Any]:
        """Settings of `fit`, chosen on validation: window and direction together, then the decay, then all near.

        Args:
            histories: as for `fit`.
            catalogue: as for `fit`.
            config: the recipe's grid.
            valid: `history: list[str], target: str`.

        Returns:
            As `llmrec.collaborative.scored.choose`.
        """
        popularity = Popularity.fit(histories, catalogue)
        users, items = item_rows(histories, popularity.items)
        judge = Validation(valid, popularity.items)
        counted: dict[int, sparse.csr_array] = {}

        def value(settings: dict[str, Any]) -> float:
            window = settings["window"]
            if window not in counted:
                counted[window] = pair_counts(users, items, len(popularity.items), window)
            matrix = _normed(counted[window], settings["direction"], items)
            return judge.of(cls(popularity, matrix, settings["decay"], config.history))

        middle = sorted(config.decay)[len(config.decay) // 2]
        first: dict[str, list[Any]] = {
            "window": config.window,
            "direction": list(config.direction),
            "decay": [middle],
        }
        choice = choose(value, [first, {"decay": config.decay}, {"window": config.window}])
        choice["chosen"]["history"] = config.history
        return choice

    def weights(self, histories: Histories) -> sparse.csr_array:
        """`decay ** k`, repeats at their last place."""
        return recency_weights(histories, self.column, self.decay, self.history)


def pair_counts(users: Ints, items: Ints, count: int, window: int) -> sparse.csr_array:
    """Σ 1/d over the pairs of a user's items that stand d ≤ `window` places apart; an item is no pair with itself.

    Args:
        users: int64 [n], whose each interaction is; a user's stand together, oldest first.
        items: int64 [n].
        count: size of the catalogue.
        window: the largest d.

    Returns:
        float64 [items, items]: in row a and column b how often b stood behind a.
    """
    total = sparse.csr_array((count, count))
    for distance in range(1, min(window, len(items) - 1) + 1):
        near = (users[distance:] == users[:-distance]) & (items[distance:] != items[:-distance])
        if not (users[distance:] == users[:-distance]).any():
            break
        pairs = items[:-distance][near], items[distance:][near]
        total = total + sparse.csr_array((np.full(len(pairs[0]), 1 / distance), pairs), shape=(count, count))
    return total.tocsr()


def _normed(behind: sparse.csr_array, direction: Direction, items: Ints) -> sparse.csr_array:
    """The counts of a direction over √(n_a n_b)."""
    matrix = {"forward": behind, "backward": behind.T, "both": behind + behind.T}[direction]
    scale = 1 / np.sqrt(np.maximum(np.bincount(items, minlength=behind.shape[0]), 1))
    scaled = sparse.csr_array(matrix).multiply(scale[:, None]).multiply(scale[None])
    return sparse.csr_array(scaled)
