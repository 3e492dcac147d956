"""Result of a search: ranked items, their scores, and whether each list is certified."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class TopK:
    """Ranked items of U users, best first.

    Attributes:
        items: int64 [U, K], item indices in trie order; −1 at the end of a list if a user has fewer allowed items.
        scores: float32 [U, K], sum of the SID tokens' log-probabilities; −inf where `items` is −1.
        is_exact: bool [U], whether the list is provably the true top-K; None if the search gives no certificate.
    """

    items: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float32]
    is_exact: npt.NDArray[np.bool_] | None = None
