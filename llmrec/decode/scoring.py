"""Scores of one decoding step: log-probabilities of a prefix's children, and the noise that turns them into samples.

Stochastic beam search samples sequences without replacement, level by level: Kool, van Hoof & Welling, Stochastic
beams and where to find them: the Gumbel-top-k trick for sampling sequences without replacement, ICML 2019. A leaf's
log-probability plus Gumbel noise is its perturbed log-probability; the k leaves with the largest ones are a sample
without replacement. The value of a prefix is the maximum over its leaves. So noise is drawn top-down: the values of
children are drawn on the condition that their maximum is the value of their parent (Algorithm 1). The root has the
value 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from llmrec.catalogue.prefix_mass import CollaborativePrior


Normalise = Literal["vocabulary", "children", "allowed"]
"""What a code's probability is a share of: see `Scoring`."""


@dataclass(frozen=True)
class Scoring:
    """How the log-probability of a child is computed from the model's logits.

    Attributes:
        normalise: `vocabulary`: the softmax is over all tokens of the model, as in Hugging Face beam search;
            `children`: it is over the children of the prefix (`sft.softmax`); `allowed`: over those of them that lead
            to an allowed item (the constrained policy).
        temperature: one divisor of the logits a level (TIGER, Rajput et al. 2023); empty divides by 1.
        prior: D3's collaborative prior (Bao et al. 2024); None uses the model alone.
        model_weight: D3's weight g of the model in g·log p_LLM + (1 − g)·log p_CF.
    """

    normalise: Normalise = "vocabulary"
    temperature: tuple[float, ...] = ()
    prior: CollaborativePrior | None = None
    model_weight: float = 1.0

    def log_probs(
        self,
        depth: int,
        logits: torch.Tensor,
        child: torch.Tensor,
        token: torch.Tensor,
        legal: torch.Tensor,
    ) -> torch.Tensor:
        """Log-probability of each child after its prefix; 0 for a pad, whatever its logit is.

        Args:
            depth: depth of the prefixes.
            logits: float [U, B, V].
            child: int64 [U, B, F], child nodes of the prefixes.
            token: int64 [U, B, F], column of `logits` for each child; −1 for a pad, which is an only child.
            legal: bool [U, B, F], whether a slot is a child; for `allowed`, one that leads to an allowed item.

        Returns:
            float32 [U, B, F], −inf for slots that are not legal.
        """
        if self.temperature:
            logits = logits.float() / self.temperature[depth]
        score = logits.gather(-1, token.clamp(min=0)).float()
        score = score.masked_fill_(~legal, -torch.inf)
        if self.normalise == "vocabulary":
            score -= log_normaliser(logits).unsqueeze(-1)
        else:
            total = score.logsumexp(-1, keepdim=True)
            score -= total.masked_fill(total.isneginf(), 0.0)
        score = score.masked_fill(legal & (token < 0), 0.0)
        if self.prior is not None:
            prior = self.prior.log_prob(child, legal)
            score = self.model_weight * score + (1 - self.model_weight) * prior
            score = score.masked_fill(~legal, -torch.inf)
        return score


def is_precise(model: PreTrainedModel) -> bool:
    """Whether a model's scores do not depend on what else is in a batch, so that a search can prove a list."""
    return model.dtype.itemsize >= torch.float32.itemsize


PLAIN = Scoring()
"""Scoring of ordinary beam search: full vocabulary, no temperature, no prior."""
CACHED = 1 << 19
"""Number of floats that fit a CPU's cache."""


def log_normaliser(logits: torch.Tensor) -> torch.Tensor:
    """Logarithm of the softmax's denominator, float32 [...] for logits [..., V].

    On a CPU it works on a few rows at a time, so that temporaries stay in the cache.
    """
    parts = [part.float().logsumexp(-1) for part in split_for_cache(logits.reshape(-1, logits.shape[-1]))]
    return torch.cat(parts).view(logits.shape[:-1])


def split_for_cache(rows: torch.Tensor, width: int | None = None) -> tuple[torch.Tensor, ...]:
    """Split rows [R, …] into parts that fit a CPU's cache.

    Args:
        rows: tensor [R, …]. On a GPU it stays whole.
        width: floats that the work on one row takes; None takes the length of a row.
    """
    step = max(1, CACHED // (width or rows.shape[1])) if rows.device.type == "cpu" else max(1, len(rows))
    return rows.split(step)


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
