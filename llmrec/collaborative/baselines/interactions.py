"""The training split as numbers, as libraries for collaborative filtering read it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy import sparse

from llmrec.collaborative.popularity import Popularity

Sequences = Sequence[npt.NDArray[np.int64]]
"""Item numbers of each user, oldest first."""


@dataclass(frozen=True)
class Interactions:
    """Training interactions of the items that have any; only these items can be learned from interactions.

    Attributes:
        items: ids of the items with training interactions, most popular first. An item's number is its place here.
        sequences: item numbers of each user's history, oldest first, int64.
    """

    items: list[str]
    sequences: Sequences

    @classmethod
    def of(cls, histories: pl.DataFrame, popularity: Popularity) -> Interactions:
        """Number the items and histories.

        Args:
            histories: `user_id, items: list[str]`, training rows only.
            popularity: popularity of the same rows over the catalogue.
        """
        items = [item for item, count in zip(popularity.items, popularity.counts, strict=True) if count]
        number = {item: row for row, item in enumerate(items)}
        return cls(items, [numbers(row, number) for row in histories["items"].to_list()])

    @cached_property
    def matrix(self) -> sparse.csr_matrix:
        """Binary matrix, float32 [users, items]: 1 where a user has chosen an item at least once."""
        return binary_rows(self.sequences, len(self.items))


def numbers(history: Sequence[str], number: dict[str, int]) -> npt.NDArray[np.int64]:
    """Return the numbers of a history's items, int64 [n], in its order; other ids are left out."""
    return np.array([number[item] for item in history if item in number], np.int64)


def binary_rows(sequences: Sequences, items: int) -> sparse.csr_matrix:
    """Return a row for each sequence, float32 [sequences, items], 1 for the items in it.

    It is a `csr_matrix`, not an array, because implicit and cornac take no other.
    """
    rows = [np.unique(sequence) for sequence in sequences]
    starts = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int32)
    columns = np.concatenate([*rows, np.empty(0, np.int64)]).astype(np.int32)
    shape = (len(rows), items)
    return sparse.csr_matrix((np.ones(len(columns), np.float32), columns, starts), shape=shape)
