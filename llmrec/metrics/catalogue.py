"""Coverage and concentration of recommendations over the catalogue."""

from __future__ import annotations

import numpy as np
import polars as pl

FORMULAS = {
    "coverage": "Coverage@k = distinct catalogue items in the first k of all lists / items in the catalogue",
    "gini": "Gini@k = Gini index of how often each catalogue item is in a first k "
    "(0: all equally often, 1: always the same one)",
}


def exposure(lists: pl.DataFrame, k: int, catalogue: pl.Series) -> np.ndarray:
    """Count, for each catalogue item, the lists that have it among their first k positions.

    Args:
        lists: `user_id, rank` (from 1)`, item_id`; ids outside the catalogue are ignored.
        k: cutoff.
        catalogue: all item ids, unique.

    Returns:
        `int64 [items]`, in catalogue order.
    """
    shown = lists.filter(pl.col("rank") <= k).group_by("item_id").agg(pl.len().alias("shown"))
    frame = catalogue.to_frame("item_id").join(shown, on="item_id", how="left", maintain_order="left")
    return frame["shown"].fill_null(0).cast(pl.Int64).to_numpy()


def coverage(shown: np.ndarray) -> float:
    """Share of the catalogue that is recommended to somebody (Herlocker et al. 2004, section 4.1)."""
    return float(np.count_nonzero(shown) / len(shown))


def gini(shown: np.ndarray) -> float:
    """Gini index of the items' exposure, bias-corrected so that one item for all is exactly 1.

    Source: Fleder & Hosanagar, Blockbuster culture's next rise or fall, Management Science 2009.

    Args:
        shown: `int64 [items]`, from `exposure`.

    Returns:
        0 (all items shown equally often, or none shown at all) to 1 (one item takes every position).
    """
    items, total = len(shown), shown.sum()
    if total == 0 or items == 1:
        return 0.0
    order = 2 * np.arange(1, items + 1) - items - 1
    return float(np.dot(order, np.sort(shown)) / (total * (items - 1)))
