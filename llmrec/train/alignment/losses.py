"""Preference losses of one chosen and several rejected items, where TRL has none."""

from __future__ import annotations

import numpy as np
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


def ecpo_old_log_probs(
    log_probs: torch.Tensor, old: torch.Tensor, advantages: torch.Tensor, epsilon: float, delta: float
) -> torch.Tensor:
    """ECPO (OneRec technical report, 2025): π'_old = max(sg π / (1 + ε + δ), π_old) where the advantage is negative.

    So a token whose probability has grown is lowered with a bounded gradient: its factor π / π'_old is at most
    1 + ε + δ.

    Args:
        log_probs: float [N, L], log π.
        old: float [N, L], log π_old.
        advantages: float [N, 1].
        epsilon: ε of the clip range.
        delta: δ.

    Returns:
        float [N, L], log π'_old.
    """
    raised = torch.maximum(log_probs - np.log1p(epsilon + delta), old)
    return torch.where(advantages < 0, raised, old)


def gbpo_old_log_probs(log_probs: torch.Tensor, old: torch.Tensor, advantages: torch.Tensor) -> torch.Tensor:
    """GBPO (OneRec-V2 technical report, 2025): π'_old = max(π_old, sg π) if A ≥ 0 else max(π_old, 1 − sg π).

    Args:
        log_probs: float [N, L], log π.
        old: float [N, L], log π_old.
        advantages: float [N, 1].

    Returns:
        float [N, L], log π'_old.
    """
    rest = torch.log1p(-log_probs.exp().clamp(max=1 - 1e-6))
    return torch.maximum(old, torch.where(advantages >= 0, log_probs, rest))
