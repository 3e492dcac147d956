"""The result of a search: ranked items, their scores, and which lists are certified."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class TopK:
    """Ranked items of U users, best first.

    Attributes:
        items: int64 [U, K], items in trie order; −1 where a user has fewer allowed items.
        scores: float32 [U, K], sum of the SID tokens' log-probabilities; −inf there.
        is_exact: bool [U], whether the list is provably the true top-K; None where no proof was sought.
    """

    items: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float32]
    is_exact: npt.NDArray[np.bool_] | None = None
