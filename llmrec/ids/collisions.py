"""Makes semantic IDs unique: items that share a code path are told apart by one more level."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def extra_level(codes: NDArray[np.int32]) -> NDArray[np.int32]:
    """Codes of the extra level, int32 `[items]` (Rajput et al. 2023, TIGER).

    The items on one code path get 0, 1, … in catalogue order, so an item alone on its path gets 0.

    Args:
        codes: int32 `[items, levels]`.
    """
    _, path = np.unique(codes, axis=0, return_inverse=True)
    path = path.reshape(-1)
    order = np.argsort(path, kind="stable")
    sizes = np.bincount(path)
    starts = np.repeat(np.cumsum(sizes) - sizes, sizes)
    rank = np.empty(len(codes), dtype=np.int32)
    rank[order] = np.arange(len(codes)) - starts
    return rank


def extra_codebook(extra: NDArray[np.int32], residuals: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean residual of the items with each code of the extra level, float32 `[codes, dim]`."""
    sums = np.zeros((int(extra.max()) + 1, residuals.shape[1]))
    np.add.at(sums, extra, residuals)
    return (sums / np.bincount(extra)[:, None]).astype(np.float32)


def count_collisions(codes: NDArray[np.int32]) -> dict[str, float]:
    """How many items share their code path with another.

    Args:
        codes: int32 `[items, levels]`.

    Returns:
        `items` on shared paths, `sids` that are shared, items on the `largest`, `rate` = items / all items,
        and `surplus` = all items minus distinct paths.
    """
    _, sizes = np.unique(codes, axis=0, return_counts=True)
    shared = sizes[sizes > 1]
    return {
        "items": int(shared.sum()),
        "sids": len(shared),
        "surplus": int(len(codes) - len(sizes)),
        "largest": int(sizes.max()),
        "rate": float(shared.sum() / len(codes)),
    }
