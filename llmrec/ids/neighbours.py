"""Trained items that new ones resemble: those on the same path of codes, and among them those with near vectors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NEAREST = 10
"""Number of nearest items, unless these are more than half of the siblings."""


@dataclass(frozen=True)
class Kin:
    """The trained items that a new one takes after.

    Attributes:
        siblings: int64 `[s]`, rows of the items with the longest prefix of its path that any of them has.
        nearest: int64 `[n]`, those of them with the nearest vectors.
    """

    siblings: NDArray[np.int64]
    nearest: NDArray[np.int64]


def find_kin(
    vectors: NDArray[np.float32],
    paths: NDArray[np.integer],
    trained: NDArray[np.float32],
    trained_paths: NDArray[np.integer],
) -> list[Kin]:
    """The kin of each new item; vectors are near by their cosine.

    What sets siblings apart from their mean adds up to nothing, so at most half of them are the nearest.

    Args:
        vectors: float32 `[new, dim]`.
        paths: int `[new, levels]`, their codes, without those that are theirs alone.
        trained: float32 `[trained, dim]`.
        trained_paths: int `[trained, levels]`.
    """
    trained = _unit(trained)
    kin = []
    for vector, path in zip(_unit(vectors), paths, strict=True):
        siblings = np.flatnonzero(_on_longest_prefix(path, trained_paths))
        count = min(NEAREST, -(-len(siblings) // 2))
        order = np.argsort(-(trained[siblings] @ vector), kind="stable")
        kin.append(Kin(siblings, siblings[order[:count]]))
    return kin


def _on_longest_prefix(path: NDArray[np.integer], trained: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Which trained items share the longest prefix of a path that any of them has, bool `[trained]`."""
    here = np.ones(len(trained), bool)
    for level, code in enumerate(path.tolist()):
        further = here & (trained[:, level] == code)
        if not further.any():
            break
        here = further
    return here


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(norms, np.finfo(np.float32).tiny), np.float32)
