"""Entropic optimal transport: an even assignment of items to codes at a small cost."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ABSORB_EVERY = 25
TINY = 1e-300


def sinkhorn(costs: NDArray[np.float32], epsilon: float, iterations: int) -> NDArray[np.float32]:
    """Entropy-regularised transport plan between items and codes (Sinkhorn-Knopp; Cuturi 2013).

    It solves min_P <P, C> − ε·H(P) with uniform marginals: each of the n rows sums to 1/n, each of the k columns to
    1/k. The column sums are exact; the row sums are as close as the iterations bring them. C is the linear map of the
    costs to [-1, 1], as in LC-Rec (Zheng et al. 2024), so that ε does not depend on their scale. The code of an item
    is the largest entry of its row (`even_codes`).

    The scaling vectors are kept as logarithms, and the kernel is computed from them again every few iterations
    (Schmitzer 2019, "Stabilized sparse scaling algorithms"). So a small ε does not underflow.

    Args:
        costs: `[n, k]`; infinite for a forbidden code. An item whose costs are all infinite is spread over all codes.
        epsilon: ε, weight of the entropy; a smaller weight gives a harder assignment.
        iterations: number of updates of rows and columns.

    Returns:
        The plan, float32 `[n, k]`.
    """
    items, codes = costs.shape
    scores = _log_kernel(costs, epsilon)
    rows, columns = np.zeros((items, 1)), np.zeros((1, codes))
    plan = np.empty_like(scores)
    for start in range(0, iterations, ABSORB_EVERY):
        rows = -np.log(items) - _log_sum(scores + columns, axis=1)
        columns = -np.log(codes) - _log_sum(scores + rows, axis=0)
        plan = np.exp(scores + rows + columns)
        across, down = np.ones(items), np.ones(codes)
        for _ in range(start + 1, min(start + ABSORB_EVERY, iterations)):
            across = 1 / (items * np.maximum(plan @ down, TINY))
            down = 1 / (codes * np.maximum(across @ plan, TINY))
        rows += np.log(across)[:, None]
        columns += np.log(down)
        plan *= down
        plan *= across[:, None]
    return plan.astype(np.float32)


def even_codes(costs: NDArray[np.float32], epsilon: float, iterations: int) -> NDArray[np.int64]:
    """The code with each item's largest share of the transport plan, int64 `[n]`; see `sinkhorn`."""
    return sinkhorn(costs, epsilon, iterations).argmax(axis=1)


def _log_kernel(costs: NDArray[np.float32], epsilon: float) -> NDArray[np.float64]:
    """−C/ε for the costs mapped to [-1, 1]; −∞ for infinite costs."""
    costs = costs.astype(np.float64)
    finite = np.isfinite(costs)
    costs[~finite.any(axis=1)] = 0
    finite = np.isfinite(costs)
    low, high = costs[finite].min(), costs[finite].max()
    half = (high - low) / 2 or 1.0
    return -np.where(finite, (costs - low) / half - 1, np.inf) / epsilon


def _log_sum(values: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """log Σ exp along an axis, which is kept; 0 for a line of −∞, which cannot be scaled."""
    top = values.max(axis=axis, keepdims=True)
    top = np.where(np.isfinite(top), top, 0)
    total = np.exp(values - top).sum(axis=axis, keepdims=True)
    return np.where(total > 0, top + np.log(np.maximum(total, TINY)), 0)
