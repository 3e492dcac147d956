"""Stochastic beam search: sequences sampled without replacement, level by level.

Kool, van Hoof & Welling, Stochastic beams and where to find them: the Gumbel-top-k trick for sampling
sequences without replacement, ICML 2019. A leaf's log-probability plus Gumbel noise is its perturbed
log-probability; the leaves with the k largest are a sample without replacement. A prefix carries the largest
of its leaves, so noise is drawn top-down: that of children on the condition that their largest is their
parent's (Algorithm 1). The root starts with 0.
"""

from __future__ import annotations

import math

import torch


def perturb(
    parents: torch.Tensor, log_probs: torch.Tensor, generator: torch.Generator | None = None
) -> torch.Tensor:
    """Perturbed log-probabilities of children, on the condition that their largest is their parent's.

    With φ the children's log-probabilities, G ~ Gumbel(φ), Z = max G and T the parent's perturbed
    log-probability (Algorithm 1 and appendix B.3 of the paper):

        G̃ = −log(exp(−T) − exp(−Z) + exp(−G)) = T − max(0, v) − log(1 + exp(−|v|)),
        v = T − G + log(1 − exp(G − Z)).

    Args:
        parents: float [U, B], T; 0 for the root, −inf for a beam that is empty.
        log_probs: float [U, B, F], φ: the children's total log-probabilities, −inf where not legal. Children's
            probabilities must add up to their node's: under a trie, renormalise over the legal ones.
        generator: on the tensors' device; None for torch's own.

    Returns:
        float64 [U, B, F]; −inf where φ is. The k largest of a user's B · F are the beams of the next level,
        and at the last level k items sampled without replacement, in the order in which they are drawn.
    """
    phi = log_probs.double()
    # float64, as Gumbel noise of float32 uniforms ends at 17. A draw of 0 would make G infinite.
    noise = torch.empty_like(phi).exponential_(generator=generator).clamp_(min=torch.finfo(phi.dtype).tiny)
    drawn = phi - noise.log()
    largest = drawn.max(-1, keepdim=True).values
    bound = parents.double().unsqueeze(-1)
    v = bound - drawn + _log1mexp(drawn - largest)
    perturbed = bound - v.clamp(min=0) - torch.log1p((-v.abs()).exp())
    return torch.where(torch.isneginf(phi), -torch.inf, perturbed)


def _log1mexp(x: torch.Tensor) -> torch.Tensor:
    """log(1 − exp(x)) for x ≤ 0, exact at both ends (Mächler 2012)."""
    return torch.where(x > -math.log(2), (-x.expm1()).log(), (-x.exp()).log1p())
