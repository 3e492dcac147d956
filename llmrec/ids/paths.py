"""Code paths as groups: which items share a prefix, and which place each has among them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def number_prefixes(codes: NDArray[np.int32]) -> list[NDArray[np.int64]]:
    """For each level, a number from 0 for each item's prefix up to and with it, int64 `[items]`.

    Equal prefixes have equal numbers, which follow the prefixes' lexicographic order.

    Args:
        codes: int32 `[items, levels]`, at least one item.
    """
    numbers, found = np.zeros(len(codes), np.int64), []
    for column in codes.T:
        pair = numbers * (int(column.max()) + 1) + column
        numbers = np.unique(pair, return_inverse=True)[1].reshape(-1).astype(np.int64)
        found.append(numbers)
    return found


def rank_within(group: NDArray[np.int64]) -> NDArray[np.int64]:
    """Place of each row among those of its group, from 0, in their order."""
    order = np.argsort(group, kind="stable")
    sizes = np.bincount(group)
    rank = np.empty(len(group), np.int64)
    rank[order] = np.arange(len(group)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return rank
