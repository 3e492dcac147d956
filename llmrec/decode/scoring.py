"""What a step down the trie costs: log-probabilities of a prefix's children."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

if TYPE_CHECKING:
    from llmrec.catalogue.prefix_mass import CollaborativePrior


@dataclass(frozen=True)
class Scoring:
    """How a child's log-probability follows from the model's logits.

    Attributes:
        normalise: `vocabulary`: log-probability among all tokens of the model (what Hugging Face beam search
            computes); `allowed`: among the prefix's children, the constrained policy.
        temperature: divides a level's logits, a number a level (TIGER, Rajput et al. 2023); empty: 1.
        prior: D3's collaborative prior (Bao et al. 2024), None for the model alone.
        model_weight: D3's share g of the model: g·log p_LLM + (1 − g)·log p_CF.
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
        """Log-probability of each child after its prefix; 0 for a pad, whatever the model says.

        Args:
            depth: depth of the prefixes.
            logits: float [U, B, V].
            child: int64 [U, B, F], nodes below them.
            token: int64 [U, B, F], model token ids that lead there; −1 for a pad, which is an only child.
            legal: bool [U, B, F], which slots are children that may be taken.

        Returns:
            float32 [U, B, F], −inf where not legal.
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
CACHED = 1 << 19
"""Floats that a CPU's cache holds with ease."""


def log_normaliser(logits: torch.Tensor) -> torch.Tensor:
    """Log of the softmax's denominator, float32 [...] of logits [..., V].

    A few rows at a time on a CPU: what is made on the way stays in its cache.
    """
    parts = [part.float().logsumexp(-1) for part in split_for_cache(logits.reshape(-1, logits.shape[-1]))]
    return torch.cat(parts).view(logits.shape[:-1])


def split_for_cache(rows: torch.Tensor, width: int | None = None) -> tuple[torch.Tensor, ...]:
    """Rows [R, …] in parts that a CPU's cache holds, each row taking `width` floats (its own where None)."""
    step = max(1, CACHED // (width or rows.shape[1])) if rows.device.type == "cpu" else max(1, len(rows))
    return rows.split(step)
