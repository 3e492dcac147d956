"""Result of a search: ranked items, their scores, and whether each list is certified."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch


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

    @property
    def certified_share(self) -> float | None:
        """Share of lists that are provably the true top-K; None if the search gives no certificate."""
        return None if self.is_exact is None else round(float(self.is_exact.mean()), 4)


def fetch(*results: torch.Tensor) -> list[npt.NDArray[Any]]:
    """Copy results from the device to the host, all at once: each copy waits for the device.

    Args:
        results: tensors [U, …] of two dimensions, of floats or of integers up to 2⁵³.

    Returns:
        Arrays of the same shapes, types and values.
    """
    if results[0].device.type == "cpu":
        return [result.numpy() for result in results]
    together = torch.cat([result.double() for result in results], dim=1).cpu()
    parts = together.split([result.shape[1] for result in results], dim=1)
    return [part.to(result.dtype).numpy() for part, result in zip(parts, results, strict=True)]
