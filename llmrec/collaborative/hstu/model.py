"""HSTU's network: Zhai et al., Actions speak louder than words: trillion-parameter sequential transducers, ICML 2024.

A layer (equations 1 to 3), with X its input and SiLU(x) = x σ(x):

    U, V, Q, K = split(SiLU(f₁(norm(X))))
    A = SiLU(Q Kᵀ + rab) / N,  where the key is not after the query, else 0      N: the longest history
    Y = X + f₂(norm(A V) ⊙ U)

Attention has no softmax. rab is a number for the distance of query and key, and, where times are read, one for the
logarithm of the seconds between them. As in the authors' code, norms inside a layer have no weights, and items are
scored by the cosine, divided by a temperature. Their code measures times up to the moment of the request, which no
other system here is told; here they are those between items of the history.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from llmrec.collaborative.hstu.settings import HstuSettings
from llmrec.collaborative.sequential.dropout import keep_all
from llmrec.collaborative.sequential.network import Drop, Network, initialise

NORM_EPSILON = 1e-6
LOG_OF_BUCKET = 0.301
"""Width of a bucket of times, in natural logarithms of seconds, as in the authors' code."""
BUCKETS = 64
"""Number of buckets of times; the last begins after 5 years."""


class HstuModel(Network):
    """HSTU over item vectors, which, normalised to length 1, are also its output layer."""

    def __init__(self, items: int, config: HstuSettings) -> None:
        """Draw the weights from torch's generator."""
        super().__init__()
        self.items = nn.Embedding(items, config.dim)
        self.positions = nn.Embedding(config.history, config.dim)
        self.layers = nn.ModuleList(HstuLayer(config) for _ in range(config.layers))
        self.temperature = config.temperature
        self.reads_times = config.times
        self.items.apply(initialise)
        self.positions.apply(initialise)

    def forward(
        self,
        items: torch.Tensor,
        lengths: torch.Tensor,
        drop: Drop = keep_all,
        times: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Compute the hidden state of each position, of length 1 / temperature, float32 [B, T, dim]."""
        from_end = lengths[:, None] - 1 - torch.arange(items.shape[1], device=items.device)
        hidden = self.items(items) * self.items.embedding_dim**0.5 + self.positions(from_end.clamp(min=0))
        hidden = drop(hidden)
        buckets = None if times is None else time_buckets(times)
        for layer in self.layers:
            hidden = layer(hidden, drop, buckets)
        return functional.normalize(hidden, dim=-1, eps=NORM_EPSILON) / self.temperature

    def table(self) -> torch.Tensor:
        """Return the item vectors, each of length 1, float32 [items, dim]."""
        return functional.normalize(self.items.weight, dim=-1, eps=NORM_EPSILON)


class HstuLayer(nn.Module):
    """One layer of HSTU: attention without softmax, whose result is gated."""

    def __init__(self, config: HstuSettings) -> None:
        """Draw the weights from torch's generator; the biases of attention start near 0."""
        super().__init__()
        self.heads, self.longest = config.heads, config.history
        self.expand = nn.Linear(config.dim, 4 * config.dim)
        self.out = nn.Linear(config.dim, config.dim)
        self.by_distance = nn.Embedding(config.history, 1)
        self.by_time = nn.Embedding(BUCKETS, 1) if config.times else None
        self.apply(initialise)
        nn.init.xavier_uniform_(self.out.weight)

    def forward(self, hidden: torch.Tensor, drop: Drop, buckets: torch.Tensor | None = None) -> torch.Tensor:
        """Transform the states of a batch.

        Args:
            hidden: float32 [B, T, dim].
            drop: dropout in training.
            buckets: int64 [B, T, T], `time_buckets`; None leaves times out.

        Returns:
            float32 [B, T, dim]; a position depends on itself and on those before it.
        """
        batch, steps, dim = hidden.shape
        gate, value, query, key = functional.silu(self.expand(_norm(hidden))).chunk(4, dim=-1)
        value, query, key = (
            part.view(batch, steps, self.heads, dim // self.heads).transpose(1, 2)
            for part in (value, query, key)
        )
        weights = functional.silu(query @ key.transpose(2, 3) + self._bias(steps, buckets)) / self.longest
        mixed = weights.tril() @ value
        mixed = mixed.transpose(1, 2).reshape(batch, steps, dim)
        added: torch.Tensor = hidden + self.out(drop(_norm(mixed) * gate))
        return added

    def _bias(self, steps: int, buckets: torch.Tensor | None) -> torch.Tensor:
        """Relative attention bias, float32 [T, T], or [B, 1, T, T] with times; the heads share it."""
        step = torch.arange(steps, device=self.by_distance.weight.device)
        bias: torch.Tensor = self.by_distance((step[:, None] - step).clamp(min=0))[..., 0]
        if self.by_time is not None and buckets is not None:
            bias = bias + self.by_time(buckets)[..., 0][:, None]
        return bias


def time_buckets(times: torch.Tensor) -> torch.Tensor:
    """Return the bucket of the time between each two items: the floor of its logarithm over `LOG_OF_BUCKET`.

    Args:
        times: int64 [B, T], seconds.

    Returns:
        int64 [B, T, T], from 0 (at most a second) to `BUCKETS` − 1.
    """
    seconds = (times[:, :, None] - times[:, None, :]).abs().clamp(min=1)
    return (seconds.double().log() / LOG_OF_BUCKET).long().clamp(max=BUCKETS - 1)


def _norm(hidden: torch.Tensor) -> torch.Tensor:
    """Layer norm without weights."""
    return functional.layer_norm(hidden, hidden.shape[-1:], eps=NORM_EPSILON)
