"""Scores of one decoding step: log-probabilities of a prefix's children."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

if TYPE_CHECKING:
    from llmrec.catalogue.prefix_mass import CollaborativePrior


@dataclass(frozen=True)
class Scoring:
    """How the log-probability of a child is computed from the model's logits.

    Attributes:
        normalise: `vocabulary`: the softmax is over all tokens of the model, as in Hugging Face beam search;
            `allowed`: it is over the children of the prefix (the constrained policy).
        temperature: one divisor of the logits a level (TIGER, Rajput et al. 2023); empty divides by 1.
        prior: D3's collaborative prior (Bao et al. 2024); None uses the model alone.
        model_weight: D3's weight g of the model in g·log p_LLM + (1 − g)·log p_CF.
    """

    normalise: Literal["vocabulary", "allowed"] = "vocabulary"
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
            legal: bool [U, B, F], whether a slot is a child that may be taken.

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
