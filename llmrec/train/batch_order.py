"""The order of what is trained on: random, in batches of similar length."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

WINDOW = 50
"""Number of batches whose trees are sorted by length together."""


def order_epochs(
    epochs: Iterable[npt.NDArray[np.int64]], lengths: npt.NDArray[np.int64], batch: int, seed: int
) -> Iterator[npt.NDArray[np.int64]]:
    """The order of a whole training: epoch after epoch, in batches of similar length.

    What does not fill an epoch's last batch is trained with the next epoch. If it stayed where it is, all batches
    behind it would begin in one group of similar lengths and end in another, and be padded to the longer.

    Args:
        epochs: rows of each epoch, int64.
        lengths: int64 [n], tokens of each row.
        batch: rows per batch.
        seed: seed of the order, with the number of the epoch.

    Yields:
        The rows of whole batches, int64, for each epoch; then those that fill none.
    """
    left = np.empty(0, np.int64)
    for number, own in enumerate(epochs):
        rows = np.concatenate([left, own])
        rows = rows[group_by_length(lengths[rows], batch, (seed, number))]
        whole = len(rows) // batch * batch
        yield rows[:whole]
        left = rows[whole:]
    yield left


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
