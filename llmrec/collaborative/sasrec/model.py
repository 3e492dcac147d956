"""SASRec's network: Kang & McAuley, Self-attentive sequential recommendation, ICDM 2018."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from llmrec.collaborative.sasrec.dropout import keep_all
from llmrec.collaborative.sasrec.settings import SasrecSettings

INITIAL_DEVIATION = 0.02
Drop = Callable[[torch.Tensor], torch.Tensor]
"""Dropout in training, or `keep_all`."""


class SasrecModel(nn.Module):
    """A causal transformer over item embeddings, which are also its output layer.

    Rows are padded after their last item, so under the causal mask no item attends to padding. Positions are
    counted from the end of the row. The position that predicts the next item is therefore the same for every user.
    """

    def __init__(self, items: int, config: SasrecSettings) -> None:
        """Draw the weights from torch's generator: normal with deviation .02, biases 0."""
        super().__init__()
        self.items = nn.Embedding(items, config.dim)
        self.positions = nn.Embedding(config.history, config.dim)
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.dim, eps=1e-8)
        self.apply(_initialise)

    def forward(self, items: torch.Tensor, lengths: torch.Tensor, drop: Drop = keep_all) -> torch.Tensor:
        """Compute the hidden state of each position, which predicts the next item.

        Args:
            items: int64 [B, T], oldest first, padded with any item; T is at most `history`.
            lengths: int64 [B], number of items in each row.
            drop: dropout in training; nothing is dropped without it.

        Returns:
            float32 [B, T, dim]; the score of an item is the product with its embedding.
        """
        from_end = lengths[:, None] - 1 - torch.arange(items.shape[1], device=items.device)
        hidden = self.items(items) * self.items.embedding_dim**0.5 + self.positions(from_end.clamp(min=0))
        hidden = drop(hidden)
        for block in self.blocks:
            hidden = block(hidden, drop)
        normed: torch.Tensor = self.norm(hidden)
        return normed


class _Block(nn.Module):
    """Self-attention and a feed-forward layer, each with a norm before it and a residual connection."""

    def __init__(self, config: SasrecSettings) -> None:
        super().__init__()
        self.heads = config.heads
        self.attention_norm = nn.LayerNorm(config.dim, eps=1e-8)
        self.qkv = nn.Linear(config.dim, 3 * config.dim)
        self.out = nn.Linear(config.dim, config.dim)
        self.feed_norm = nn.LayerNorm(config.dim, eps=1e-8)
        self.widen = nn.Linear(config.dim, config.dim)
        self.narrow = nn.Linear(config.dim, config.dim)

    def forward(self, hidden: torch.Tensor, drop: Drop) -> torch.Tensor:
        hidden = hidden + drop(self._attend(self.attention_norm(hidden), drop))
        inner = drop(functional.relu(self.widen(self.feed_norm(hidden))))
        added: torch.Tensor = hidden + drop(self.narrow(inner))
        return added

    def _attend(self, hidden: torch.Tensor, drop: Drop) -> torch.Tensor:
        """Causal self-attention, float32 [B, T, dim] like `hidden`; dropout is on its weights, as published."""
        batch, steps, dim = hidden.shape
        parts = self.qkv(hidden).view(batch, steps, 3, self.heads, dim // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        later = torch.ones(steps, steps, dtype=torch.bool, device=hidden.device).triu(1)
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(2, 3)
        weights = scores.masked_fill(later, -torch.inf).softmax(-1)
        mixed = (drop(weights) @ value).transpose(1, 2).reshape(batch, steps, dim)
        projected: torch.Tensor = self.out(mixed)
        return projected


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=INITIAL_DEVIATION)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
