"""SASRec's network and its two losses.

Kang & McAuley, Self-attentive sequential recommendation, ICDM 2018; the full cross-entropy after Klenitskiy &
Vasilev, Turning dross into gold loss: is BERT4Rec really better than SASRec?, RecSys 2023.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from llmrec.collaborative.sasrec.settings import SasrecSettings

INITIAL_DEVIATION = 0.02
TILE = 1 << 20
"""Scores that the cross-entropy holds at once: 4 MB, which stays in a core's cache."""


class SasrecModel(nn.Module):
    """A causal transformer over item embeddings, which are its output layer too.

    Rows are padded behind their last item: under the causal mask no item sees the padding. Positions are
    counted from the end of the row, so that the position asked for the next item is the same for every user.
    """

    def __init__(self, items: int, config: SasrecSettings) -> None:
        """Draw the weights from torch's generator: normal with deviation .02, biases 0."""
        super().__init__()
        self.items = nn.Embedding(items, config.dim)
        self.positions = nn.Embedding(config.history, config.dim)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.dim, eps=1e-8)
        self.apply(_initialise)

    def forward(self, items: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """What each position expects next.

        Args:
            items: int64 [B, T], oldest first, any item behind the end; T is at most `history`.
            lengths: int64 [B], items of each row.

        Returns:
            float32 [B, T, dim]; the score of an item is the product with its embedding.
        """
        from_end = lengths[:, None] - 1 - torch.arange(items.shape[1], device=items.device)
        hidden = self.items(items) * self.items.embedding_dim**0.5 + self.positions(from_end.clamp(min=0))
        hidden = self.dropout(hidden)
        for block in self.blocks:
            hidden = block(hidden)
        normed: torch.Tensor = self.norm(hidden)
        return normed


class _Block(nn.Module):
    """Self-attention and a feed-forward layer, each normed before and added to what came in."""

    def __init__(self, config: SasrecSettings) -> None:
        super().__init__()
        self.heads, self.rate = config.heads, config.dropout
        self.attention_norm = nn.LayerNorm(config.dim, eps=1e-8)
        self.qkv = nn.Linear(config.dim, 3 * config.dim)
        self.out = nn.Linear(config.dim, config.dim)
        self.feed_norm = nn.LayerNorm(config.dim, eps=1e-8)
        self.widen = nn.Linear(config.dim, config.dim)
        self.narrow = nn.Linear(config.dim, config.dim)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        batch, steps, dim = hidden.shape
        parts = self.qkv(self.attention_norm(hidden)).view(batch, steps, 3, self.heads, dim // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        rate = self.rate if self.training else 0.0
        seen = functional.scaled_dot_product_attention(query, key, value, dropout_p=rate, is_causal=True)
        hidden = hidden + self.dropout(self.out(seen.transpose(1, 2).reshape(batch, steps, dim)))
        inner = self.dropout(functional.relu(self.widen(self.feed_norm(hidden))))
        added: torch.Tensor = hidden + self.dropout(self.narrow(inner))
        return added


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=INITIAL_DEVIATION)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)


def bce_loss(
    hidden: torch.Tensor, table: torch.Tensor, targets: torch.Tensor, negatives: torch.Tensor
) -> torch.Tensor:
    """Binary cross-entropy with one negative a position (Kang & McAuley 2018, equation 7), mean over positions.

    Args:
        hidden: float [P, dim].
        table: float [items, dim], the item embeddings.
        targets: int64 [P], the items that came next.
        negatives: int64 [P], items that did not.
    """
    # Not table[targets]: threads add up the gradient of an item met twice in any order.
    positive = (hidden * functional.embedding(targets, table)).sum(-1)
    negative = (hidden * functional.embedding(negatives, table)).sum(-1)
    return -(functional.logsigmoid(positive) + functional.logsigmoid(-negative)).mean()


def ce_loss(hidden: torch.Tensor, table: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of the softmax over all items (Klenitskiy & Vasilev 2023, equation 3), mean over positions.

    Args:
        hidden: float [P, dim].
        table: float [items, dim], the item embeddings.
        targets: int64 [P], the items that came next.
    """
    loss: torch.Tensor = _TiledCrossEntropy.apply(hidden, table, targets)  # type: ignore[no-untyped-call]
    return loss


class _TiledCrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of `hidden @ table.T`, the gradients taken along tile by tile.

    The scores [P, items] never exist as a whole: half the time of `cross_entropy`, and memory that does not
    grow with the batch.
    """

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, table: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        by_hidden, by_table = torch.empty_like(hidden), torch.zeros_like(table)
        rows = max(1, TILE // len(table))
        space = hidden.new_empty(min(rows, len(hidden)), len(table))
        total = hidden.new_zeros(())
        for start in range(0, len(hidden), rows):
            tile = slice(start, start + rows)
            wanted = targets[tile, None]
            scores = torch.mm(hidden[tile], table.T, out=space[: len(wanted)])
            highest = scores.amax(1, keepdim=True)
            total -= (scores.gather(1, wanted) - highest).sum()
            chances = scores.sub_(highest).exp_()
            mass = chances.sum(1, keepdim=True)
            total += mass.log().sum()
            # The gradient by the scores: what the softmax gives, less the target.
            errors = chances.div_(mass).scatter_add_(1, wanted, -torch.ones_like(mass))
            by_hidden[tile] = errors @ table
            by_table.addmm_(errors.T, hidden[tile])
        ctx.save_for_backward(by_hidden / len(hidden), by_table / len(hidden))
        return total / len(hidden)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        by_hidden, by_table = ctx.saved_tensors
        return by_hidden * gradient, by_table * gradient, None
