"""The most popular items of the training interactions. Users get the same items, except for those already seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import polars as pl

from llmrec.collaborative.system import Ranked, System, TrainingData


class PopularitySystem(System):
    """Recommends the items with the most training interactions to everyone."""

    title: ClassVar[str] = "popularity"
    formula: ClassVar[str] = "score(i) = training interactions of i"

    def fit(self, data: TrainingData) -> Popularity:
        """Count training interactions."""
        return Popularity.fit(data.histories, data.items)


class Popularity:
    """Recommends by number of training interactions; equal counts are in catalogue order.

    Attributes:
        items: item ids, most popular first.
        counts: training interactions of `items`.
    """

    def __init__(self, items: list[str], counts: list[int]) -> None:
        """Keep items (most popular first) and their counts; `fit` makes both."""
        self.items = items
        self.counts = counts

    @classmethod
    def fit(cls, histories: pl.DataFrame, catalogue: Sequence[str]) -> Popularity:
        """Count training interactions.

        Args:
            histories: `user_id, items: list[str]`, training rows only.
            catalogue: every item id that may be recommended; its order breaks ties.
        """
        counts = (
            histories.select(item_id=pl.col("items").explode().cast(pl.String))
            .group_by("item_id")
            .agg(pl.len().cast(pl.Int64).alias("count"))
        )
        ranked = (
            pl.DataFrame({"item_id": catalogue}, schema={"item_id": pl.String})
            .join(counts, on="item_id", how="left", maintain_order="left")
            .with_columns(pl.col("count").fill_null(0))
            .sort("count", descending=True, maintain_order=True)
        )
        return cls(ranked["item_id"].to_list(), ranked["count"].to_list())

    @classmethod
    def of_counts(cls, items: Sequence[str], counts: npt.NDArray[np.int64]) -> Popularity:
        """Rank items by their training interactions `[items]`; equal counts stay in the order of the items."""
        order = np.argsort(-counts, kind="stable")
        return cls([items[i] for i in order], counts[order].tolist())

    def fill_in(self, ranked: Ranked, users: Sequence[int], k: int, exclude: Sequence[Sequence[str]]) -> None:
        """Give some users the most popular items, in place.

        Args:
            ranked: item ids and scores of all users.
            users: which users' lists are replaced.
            k: length of the lists.
            exclude: items that a user must not get, for all users.
        """
        items, scores = self.recommend([()] * len(users), k, [exclude[user] for user in users])
        for user, row, values in zip(users, items, scores, strict=True):
            ranked[0][user], ranked[1][user] = row, values

    def recommend(
        self, histories: Sequence[Sequence[str]], k: int, exclude: Sequence[Sequence[str]] | None = None
    ) -> Ranked:
        """The k most popular items for each user.

        Args:
            histories: one list of item ids per user; only the number of users matters here.
            k: length of the lists; a list is shorter only if the catalogue has too few items.
            exclude: items that a user must not get, such as those already seen.

        Returns:
            Item ids and scores (training counts), one list per user, best first.
        """
        banned = exclude if exclude is not None else [()] * len(histories)
        lists = [self.first(k, set(items)) for items in banned]
        return [[self.items[i] for i in row] for row in lists], [
            [float(self.counts[i]) for i in row] for row in lists
        ]

    def log_probs(self, histories: Sequence[Sequence[str]], items: Sequence[str]) -> npt.NDArray[np.float32]:
        """Log-probability of each item as the next one, add-one smoothed.

        Args:
            histories: one list of item ids per user; only the number of users matters here.
            items: the catalogue, in the order of the columns.

        Returns:
            float32 [U, items].
        """
        counts = dict(zip(self.items, self.counts, strict=True))
        smoothed = np.array([counts[item] + 1 for item in items], np.float64)
        row = np.log(smoothed / smoothed.sum()).astype(np.float32)
        return np.tile(row, (len(histories), 1))

    def first(self, k: int, exclude: set[str]) -> list[int]:
        """Positions in `items` of the k most popular ones outside `exclude`."""
        allowed = (i for i, item in enumerate(self.items) if item not in exclude)
        return [i for i, _ in zip(allowed, range(k), strict=False)]
