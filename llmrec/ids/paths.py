"""Groups of items that share a prefix of their code paths, and the rank of each item in its group."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def number_prefixes(codes: NDArray[np.int32]) -> list[NDArray[np.int64]]:
    """Number the prefixes of each length from 0, in lexicographic order.

    Args:
        codes: int32 `[items, levels]`, at least one item.

    Returns:
        For each level, int64 `[items]`: the number of each item's prefix up to and with this level. Equal prefixes
        have equal numbers.
    """
    numbers = np.zeros(len(codes), np.int64)
    levels = []
    for column in codes.T:
        pair = numbers * (int(column.max()) + 1) + column
        numbers = np.unique(pair, return_inverse=True)[1].reshape(-1).astype(np.int64)
        levels.append(numbers)
    return levels


def rank_within(group: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rank of each row within its group, from 0, in the order of the rows; int64 `[n]`."""
    order = np.argsort(group, kind="stable")
    sizes = np.bincount(group)
    rank = np.empty(len(group), np.int64)
    rank[order] = np.arange(len(group)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return rank
