"""Diagnostics of semantic IDs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmrec.ids.collisions import count_collisions


def describe_levels(sids: NDArray[np.int32], sizes: list[int]) -> list[dict[str, Any]]:
    """Usage of each level: codes there are, codes used, entropy of their use in bits, and its maximum.

    Args:
        sids: int32 `[items, levels]`.
        sizes: codes of each level.
    """
    levels = []
    for level, size in enumerate(sizes):
        counts = np.bincount(sids[:, level], minlength=size)
        share = counts[counts > 0] / len(sids)
        levels.append(
            {
                "name": chr(ord("a") + level),
                "codes": size,
                "used": len(share),
                "entropy": max(0.0, float(-(share * np.log2(share)).sum())),
                "max_entropy": math.log2(size),
            }
        )
    return levels


def make_report(
    sids: NDArray[np.int32],
    sizes: list[int],
    errors: list[float],
    quantizer: dict[str, Any],
    vectors: dict[str, Any],
) -> dict[str, Any]:
    """The content of `ids/report.json`.

    Args:
        sids: int32 `[items, levels]`, the extra level last.
        sizes: codes of each level.
        errors: share of variance left after each level but the extra one.
        quantizer: its settings as used.
        vectors: where the item vectors came from.
    """
    after = count_collisions(sids)
    return {
        "quantizer": quantizer,
        "encoder": vectors,
        "items": len(sids),
        "levels": describe_levels(sids, sizes),
        "collisions": {"before": count_collisions(sids[:, :-1]), "after": after["items"]},
        "reconstruction_error": errors,
    }
