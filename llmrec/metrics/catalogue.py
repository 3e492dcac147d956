"""Coverage and concentration of recommendations over the catalogue."""

from __future__ import annotations

import numpy as np

from llmrec.metrics.metric import ListMetric


def coverage(shown: np.ndarray) -> float:
    """Share of the catalogue that is recommended to somebody (Herlocker et al. 2004, section 4.1)."""
    return float(np.count_nonzero(shown) / len(shown))


def gini(shown: np.ndarray) -> float:
    """Gini index of the items' exposure, bias-corrected so that one item for all is exactly 1.

    Source: Fleder & Hosanagar, Blockbuster culture's next rise or fall, Management Science 2009.

    Args:
        shown: `int64 [items]`, how often each item is shown (`RecommendedLists.exposure`).

    Returns:
        A value from 0 (all items are shown equally often, or none at all) to 1 (one item has every position).
    """
    items, total = len(shown), shown.sum()
    if total == 0 or items == 1:
        return 0.0
    order = 2 * np.arange(1, items + 1) - items - 1
    return float(np.dot(order, np.sort(shown)) / (total * (items - 1)))


COVERAGE = ListMetric(
    name="coverage",
    title="Coverage",
    formula="Coverage@k = distinct catalogue items in the first k of all lists / items in the catalogue",
    source="Herlocker et al., Evaluating collaborative filtering recommender systems, 2004, section 4.1",
    value=lambda lists, k: coverage(lists.exposure(k)),
)
GINI = ListMetric(
    name="gini",
    title="Gini",
    formula=(
        "Gini@k = Gini index of how often each catalogue item is in a first k "
        "(0: all equally often, 1: always the same one)"
    ),
    source="Fleder & Hosanagar, Blockbuster culture's next rise or fall, Management Science 2009",
    value=lambda lists, k: gini(lists.exposure(k)),
)
