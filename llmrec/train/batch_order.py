"""The order of training trees: random, in batches of similar length."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

WINDOW = 50
"""Number of batches whose trees are sorted by length together."""


def group_by_length(lengths: npt.NDArray[np.int64], batch: int, seed: Sequence[int]) -> npt.NDArray[np.int64]:
    """Return a random order that groups trees of similar length into batches; an incomplete batch comes last.

    Trees are sorted within `WINDOW` batches at a time. Batches therefore pad little and still differ between epochs.

    Args:
        lengths: int64 [n], tokens of each tree.
        batch: trees per batch.
        seed: seed of the order.

    Returns:
        int64 [n], a permutation.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(lengths))
    size = WINDOW * batch
    windows = [order[start : start + size] for start in range(0, len(order), size)]
    order = np.concatenate([part[np.argsort(-lengths[part], kind="stable")] for part in windows])
    whole = len(order) // batch * batch
    batches = rng.permutation(order[:whole].reshape(-1, batch))
    return np.concatenate([batches.reshape(-1), order[whole:]])
