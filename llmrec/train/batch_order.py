"""The order of training trees: random, in batches of like length."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

WINDOW = 50
"""Batches among which trees are sorted by length."""


def group_by_length(lengths: npt.NDArray[np.int64], batch: int, seed: Sequence[int]) -> npt.NDArray[np.int64]:
    """A random order, int64 [n], in which each run of `batch` has like lengths; a short run comes last.

    Sorting runs over `WINDOW` batches at a time, so that batches pad little and still differ from epoch to epoch.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(lengths))
    windows = [order[at : at + WINDOW * batch] for at in range(0, len(order), WINDOW * batch)]
    order = np.concatenate([part[np.argsort(-lengths[part], kind="stable")] for part in windows])
    whole = len(order) // batch * batch
    batches = rng.permutation(order[:whole].reshape(-1, batch))
    return np.concatenate([batches.reshape(-1), order[whole:]])
