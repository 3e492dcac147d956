"""Entropic optimal transport: an even assignment of items to codes at a small cost."""

from __future__ import annotations

import math

import torch
from torch import Tensor

ABSORB_EVERY = 25
TINY = 1e-300


def sinkhorn(costs: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Entropy-regularised transport plan between items and codes (Sinkhorn-Knopp; Cuturi 2013).

    It solves min_P <P, C> − ε·H(P) with uniform marginals: each of the n rows sums to 1/n, each of the k columns to
    1/k. The column sums are exact; the row sums are as close as the iterations bring them. C is the linear map of the
    costs to [-1, 1], as in LC-Rec (Zheng et al. 2024), so that ε does not depend on their scale. The code of an item
    is the largest entry of its row (`even_codes`).

    The scaling vectors are kept as logarithms, and the kernel is computed from them again every few iterations
    (Schmitzer 2019, "Stabilized sparse scaling algorithms"). So a small ε does not underflow. It is computed on the
    costs' device in float64; the host does not wait for it.

    Args:
        costs: `[n, k]`; infinite for a forbidden code. An item whose costs are all infinite is spread over all codes.
        epsilon: ε, weight of the entropy; a smaller weight gives a harder assignment.
        iterations: number of updates of rows and columns.

    Returns:
        The plan, float32 `[n, k]`.
    """
    items, codes = costs.shape
    scores = _log_kernel(costs.double(), epsilon)
    rows, columns = scores.new_zeros((items, 1)), scores.new_zeros((1, codes))
    plan = torch.empty_like(scores)
    for start in range(0, iterations, ABSORB_EVERY):
        rows = -math.log(items) - _log_sum(scores + columns, 1)
        columns = -math.log(codes) - _log_sum(scores + rows, 0)
        plan = torch.exp(scores + rows + columns)
        across, down = scores.new_ones(items), scores.new_ones(codes)
        for _ in range(start + 1, min(start + ABSORB_EVERY, iterations)):
            across = 1 / (items * (plan @ down).clamp(min=TINY))
            down = 1 / (codes * (across @ plan).clamp(min=TINY))
        rows = rows + across.log()[:, None]
        columns = columns + down.log()
        plan = plan * down * across[:, None]
    return plan.float()


def even_codes(costs: Tensor, epsilon: float, iterations: int) -> Tensor:
    """The code with each item's largest share of the transport plan, int64 `[n]`; see `sinkhorn`."""
    return sinkhorn(costs, epsilon, iterations).argmax(dim=1)


def _log_kernel(costs: Tensor, epsilon: float) -> Tensor:
    """−C/ε for the costs mapped to [-1, 1]; −∞ for infinite costs."""
    costs = torch.where(costs.isfinite().any(1, keepdim=True), costs, 0.0)
    finite = costs.isfinite()
    low = torch.where(finite, costs, torch.inf).amin()
    half = (torch.where(finite, costs, -torch.inf).amax() - low) / 2
    half = torch.where(half == 0, 1.0, half)
    return -torch.where(finite, (costs - low) / half - 1, torch.inf) / epsilon


def _log_sum(values: Tensor, dim: int) -> Tensor:
    """log Σ exp along a dimension, which is kept; 0 for a line of −∞, which cannot be scaled."""
    total = values.logsumexp(dim, keepdim=True)
    return torch.where(total.isneginf(), 0.0, total)
