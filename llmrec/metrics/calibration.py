"""Calibration: whether a list has the categories of the history in their proportions."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from llmrec.metrics.lists import RecommendedLists, Values
from llmrec.metrics.metric import UserMetric

SMOOTHING = 0.01
"""α of Steck 2018: share of the history's distribution that is mixed into the list's; it keeps the value finite."""
_BLOCK = 4096
"""Users whose distributions over categories are in memory at once."""


def miscalibration(history: Values, listed: Values) -> Values:
    """Kullback-Leibler divergence of each list's categories from those of the history, in nats.

    Source: Steck, Calibrated recommendations, RecSys 2018, section 3, with α = 0.01.

    Args:
        history: `[users, categories]`, p(category | user); a row of zeros if the history has no categories.
        listed: `[users, categories]`, q(category | user); a row of zeros if the list has none.

    Returns:
        float64 `[users]`: 0 for equal distributions, at most −ln α; NaN where either has no categories.
    """
    smoothed = (1 - SMOOTHING) * listed + SMOOTHING * history
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(history > 0, history * np.log(history / smoothed), 0.0)
    values = terms.sum(axis=1)
    values[(history.sum(axis=1) == 0) | (listed.sum(axis=1) == 0)] = np.nan
    return np.asarray(values, np.float64)


def _calibration(lists: RecommendedLists, k: int) -> Values:
    categories = lists.items.categories
    assert categories is not None  # the metric declares that it needs them
    shares = _normalised(categories)
    listed = lists.positions[:, :k]
    rows, columns = np.nonzero(listed >= 0)
    cells = (np.ones(len(rows)), (rows, listed[rows, columns]))
    shown = sparse.csr_array(cells, shape=(len(listed), shares.shape[0]))
    values = np.empty(len(listed))
    for start in range(0, len(listed), _BLOCK):
        part = slice(start, start + _BLOCK)
        history = _normalised(sparse.csr_array(lists.history[part] @ shares))
        recommended = _normalised(sparse.csr_array(shown[part] @ shares))
        values[part] = miscalibration(history.toarray(), recommended.toarray())
    return values


def _normalised(rows: sparse.csr_array) -> sparse.csr_array:
    """Divide each row by its sum; a row of zeros stays."""
    sums = rows.sum(axis=1)
    return sparse.csr_array(sparse.diags_array(1 / np.where(sums > 0, sums, 1.0)) @ rows)


CALIBRATION = UserMetric(
    name="calibration",
    title="Miscalibration",
    formula=(
        "C_KL@k = Σ over categories c of p(c) ln(p(c) / (0.99 q(c) + 0.01 p(c))); p is the history's distribution "
        "over categories, q that of the first k items; an item's categories share it equally"
    ),
    source="Steck, Calibrated recommendations, RecSys 2018, section 3, α = 0.01, all interactions weighted alike",
    value=_calibration,
    reading="0: the categories of the history in their proportions; lower is better",
    needs=("categories",),
)
