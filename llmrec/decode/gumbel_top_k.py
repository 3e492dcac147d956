"""Stochastic beam search: sequences sampled without replacement, level by level.

Kool, van Hoof & Welling, Stochastic beams and where to find them: the Gumbel-top-k trick for sampling
sequences without replacement, ICML 2019. A leaf's log-probability plus Gumbel noise is its perturbed
log-probability; the k leaves with the largest ones are a sample without replacement. The value of a prefix is the
maximum over its leaves. So noise is drawn top-down: the values of children are drawn on the condition that their
maximum is the value of their parent (Algorithm 1). The root has the value 0.
"""

from __future__ import annotations

import math

import torch


def perturb(
    parents: torch.Tensor, log_probs: torch.Tensor, generator: torch.Generator | None = None
) -> torch.Tensor:
    """Perturbed log-probabilities of children, on the condition that their maximum is their parent's value.

    With φ the children's log-probabilities, G ~ Gumbel(φ), Z = max G and T the parent's perturbed
    log-probability (Algorithm 1 and appendix B.3 of the paper):

        G̃ = −log(exp(−T) − exp(−Z) + exp(−G)) = T − max(0, v) − log(1 + exp(−|v|)),
        v = T − G + log(1 − exp(G − Z)).

    Args:
        parents: float [U, B], T; 0 for the root, −inf for an empty beam.
        log_probs: float [U, B, F], φ: the children's total log-probabilities, −inf for illegal children. The
            probabilities of children must sum to that of their node: under a trie, normalise over legal children.
        generator: on the tensors' device; None for torch's own.

    Returns:
        float64 [U, B, F]; −inf where φ is −inf. The k largest of a user's B · F are the beams of the next level,
        and at the last level k items sampled without replacement, in the order of the draws.
    """
    phi = log_probs.double()
    # float64 is used because Gumbel noise from float32 uniforms ends at 17. A draw of 0 would make G infinite.
    noise = torch.empty_like(phi).exponential_(generator=generator).clamp_(min=torch.finfo(phi.dtype).tiny)
    gumbels = phi - noise.log()
    largest = gumbels.max(-1, keepdim=True).values
    bound = parents.double().unsqueeze(-1)
    v = bound - gumbels + _log1mexp(gumbels - largest)
    perturbed = bound - v.clamp(min=0) - torch.log1p((-v.abs()).exp())
    return torch.where(torch.isneginf(phi), -torch.inf, perturbed)


def _log1mexp(x: torch.Tensor) -> torch.Tensor:
    """log(1 − exp(x)) for x ≤ 0, exact at both ends (Mächler 2012)."""
    return torch.where(x > -math.log(2), (-x.expm1()).log(), (-x.exp()).log1p())
