"""Preference losses of one chosen and several rejected items, where TRL has none."""

from __future__ import annotations

import torch
from torch.nn.functional import logsigmoid


def sdpo(chosen: torch.Tensor, rejected: torch.Tensor, beta: float) -> torch.Tensor:
    """Softmax-DPO (Chen et al., On softmax direct preference optimization for recommendation, NeurIPS 2024).

    −log σ(−log Σ_d exp(β(Δ_d − Δ_w))) with Δ = log π − log π_ref, summed over a completion's tokens. With one
    rejected item it is DPO.

    Args:
        chosen: float [B], Δ_w.
        rejected: float [B, n], Δ_d.
        beta: β.

    Returns:
        float [B].
    """
    return -logsigmoid(-(beta * (rejected - chosen.unsqueeze(1))).logsumexp(1))


def rosepo(chosen: torch.Tensor, rejected: torch.Tensor, beta: float, smoothing: float) -> torch.Tensor:
    """RosePO (Liao et al. 2024): DPO whose pairs may be wrong with probability ε.

    −(1 − ε) log σ(β(Δ_w − Δ_d)) − ε log σ(−β(Δ_w − Δ_d)), the mean over the rejected items.

    Args:
        chosen: float [B], Δ_w.
        rejected: float [B, n], Δ_d.
        beta: β.
        smoothing: ε.

    Returns:
        float [B].
    """
    margin = beta * (chosen.unsqueeze(1) - rejected)
    return (-(1 - smoothing) * logsigmoid(margin) - smoothing * logsigmoid(-margin)).mean(1)
