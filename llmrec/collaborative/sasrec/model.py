"""SASRec's network: Kang & McAuley, Self-attentive sequential recommendation, ICDM 2018."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from llmrec.collaborative.sasrec.settings import SasrecSettings
from llmrec.collaborative.sequential.dropout import keep_all
from llmrec.collaborative.sequential.network import Drop, Network, initialise


class SasrecModel(Network):
    """A causal transformer over item embeddings, which are also its output layer.

    With `positions: end`, positions are counted from the end of the row. The position that predicts the next item is
    then the same for every user.
    """

    def __init__(self, items: int, config: SasrecSettings) -> None:
        """Draw the weights from torch's generator: normal with deviation .02, biases 0."""
        super().__init__()
        self.items = nn.Embedding(items, config.dim)
        self.positions = nn.Embedding(config.history, config.dim) if config.positions == "end" else None
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.dim, eps=1e-8)
        self.apply(initialise)
        self.start = items if config.start else None
        if config.start:
            self.start_vector = nn.Parameter(torch.zeros(config.dim))

    def forward(
        self,
        items: torch.Tensor,
        lengths: torch.Tensor,
        drop: Drop = keep_all,
        times: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Compute the hidden state of each position, float32 [B, T, dim]; times are not read."""
        hidden = self._embed(items) * self.items.embedding_dim**0.5
        if self.positions is not None:
            from_end = lengths[:, None] - 1 - torch.arange(items.shape[1], device=items.device)
            hidden = hidden + self.positions(from_end.clamp(min=0))
        hidden = drop(hidden)
        for block in self.blocks:
            hidden = block(hidden, drop)
        normed: torch.Tensor = self.norm(hidden)
        return normed

    def _embed(self, items: torch.Tensor) -> torch.Tensor:
        if self.start is None:
            embedded: torch.Tensor = self.items(items)
            return embedded
        is_start = items == self.start
        return torch.where(is_start[..., None], self.start_vector, self.items(items.masked_fill(is_start, 0)))


class _Block(nn.Module):
    """Self-attention and a feed-forward layer, each with a norm before it and a residual connection."""

    def __init__(self, config: SasrecSettings) -> None:
        super().__init__()
        self.heads, self.share = config.heads, config.filter
        self.attention_norm = nn.LayerNorm(config.dim, eps=1e-8)
        self.qkv = nn.Linear(config.dim, 3 * config.dim)
        self.out = nn.Linear(config.dim, config.dim)
        self.distances = (
            nn.Embedding(config.history, config.heads) if config.positions == "relative" else None
        )
        self.filter = FrequencyFilter(config) if config.filter else None
        self.feed_norm = nn.LayerNorm(config.dim, eps=1e-8)
        self.widen = nn.Linear(config.dim, config.dim)
        self.narrow = nn.Linear(config.dim, config.dim)

    def forward(self, hidden: torch.Tensor, drop: Drop) -> torch.Tensor:
        normed = self.attention_norm(hidden)
        mixed = self._attend(normed, drop)
        if self.filter is not None:
            mixed = self.share * self.filter(normed) + (1 - self.share) * mixed
        hidden = hidden + drop(mixed)
        inner = drop(functional.relu(self.widen(self.feed_norm(hidden))))
        added: torch.Tensor = hidden + drop(self.narrow(inner))
        return added

    def _attend(self, hidden: torch.Tensor, drop: Drop) -> torch.Tensor:
        """Causal self-attention, float32 [B, T, dim] like `hidden`; dropout is on its weights, as published."""
        batch, steps, dim = hidden.shape
        parts = self.qkv(hidden).view(batch, steps, 3, self.heads, dim // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(2, 3)
        step = torch.arange(steps, device=hidden.device)
        distance = step[:, None] - step
        if self.distances is not None:
            scores = scores + self.distances(distance.clamp(min=0)).permute(2, 0, 1)
        weights = scores.masked_fill(distance < 0, -torch.inf).softmax(-1)
        mixed = (drop(weights) @ value).transpose(1, 2).reshape(batch, steps, dim)
        projected: torch.Tensor = self.out(mixed)
        return projected


class FrequencyFilter(nn.Module):
    """BSARec's filter of a sequence, in a causal form: low frequencies plus weighted high ones.

    Shin et al., An attentive inductive bias for sequential recommendation beyond the self-attention, AAAI 2024,
    equation 8: low(x) + β² (x − low(x)), where low keeps the lowest frequencies of the Fourier transform of a row of
    `history` positions, with zeros before the first item. There a position sees the items after it, which is right
    only where each history is a sample with one target, its last. Here the output at a position is what the published
    filter gives there for a row that ends there: a sum over the items before, whose weights depend on the distance.
    """

    kernel: torch.Tensor

    def __init__(self, config: SasrecSettings) -> None:
        """Compute the weights by distance; β is 1, so that the filter starts as the identity."""
        super().__init__()
        self.scale = nn.Parameter(torch.ones(config.dim))
        step = torch.arange(config.history, dtype=torch.float64)
        waves = torch.arange(min(config.frequencies, config.history // 2 + 1), dtype=torch.float64)
        # A wave and its mirror image; the mean and the fastest wave of an even row have none.
        doubled = torch.where((waves > 0) & (2 * waves < config.history), 2.0, 1.0)
        by_distance = (doubled * torch.cos(2 * torch.pi * step[:, None] * waves / config.history)).sum(1)
        distance = (step[:, None] - step).long()
        kernel = torch.where(distance >= 0, by_distance[distance.clamp(min=0)], 0.0) / config.history
        self.register_buffer("kernel", kernel.float(), persistent=False)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Filter float32 [B, T, dim], oldest first."""
        steps = hidden.shape[1]
        low = self.kernel[:steps, :steps] @ hidden
        filtered: torch.Tensor = low + self.scale**2 * (hidden - low)
        return filtered
