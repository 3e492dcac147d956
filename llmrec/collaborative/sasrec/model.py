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
"""Number of scores that the cross-entropy holds at once: 4 MB, which fits in a core's cache."""


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
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.dim, eps=1e-8)
        self.apply(_initialise)

    def forward(self, items: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Compute the hidden state of each position, which predicts the next item.

        Args:
            items: int64 [B, T], oldest first, padded with any item; T is at most `history`.
            lengths: int64 [B], number of items in each row.

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
    """Self-attention and a feed-forward layer, each with a norm before it and a residual connection."""

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
        targets: int64 [P], the next items.
        negatives: int64 [P], sampled items that are not the next one.
    """
    # With table[targets], threads would sum the gradients of an item that occurs twice in any order.
    positive = (hidden * functional.embedding(targets, table)).sum(-1)
    negative = (hidden * functional.embedding(negatives, table)).sum(-1)
    return -(functional.logsigmoid(positive) + functional.logsigmoid(-negative)).mean()


def ce_loss(hidden: torch.Tensor, table: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of the softmax over all items (Klenitskiy & Vasilev 2023, equation 3), mean over positions.

    Args:
        hidden: float [P, dim].
        table: float [items, dim], the item embeddings.
        targets: int64 [P], the next items.
    """
    loss: torch.Tensor = _TiledCrossEntropy.apply(hidden, table, targets)  # type: ignore[no-untyped-call]
    return loss


class _TiledCrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of `hidden @ table.T`, with the gradients computed tile by tile in the forward pass.

    The scores [P, items] never exist as a whole. This takes half the time of `cross_entropy`, and its memory does not
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
            columns = targets[tile, None]
            scores = torch.mm(hidden[tile], table.T, out=space[: len(columns)])
            highest = scores.amax(1, keepdim=True)
            total -= (scores.gather(1, columns) - highest).sum()
            exponentials = scores.sub_(highest).exp_()
            sums = exponentials.sum(1, keepdim=True)
            total += sums.log().sum()
            # Gradient with respect to the scores: softmax probabilities minus the one-hot target.
            errors = exponentials.div_(sums).scatter_add_(1, columns, -torch.ones_like(sums))
            by_hidden[tile] = errors @ table
            by_table.addmm_(errors.T, hidden[tile])
        ctx.save_for_backward(by_hidden / len(hidden), by_table / len(hidden))
        return total / len(hidden)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        by_hidden, by_table = ctx.saved_tensors
        return by_hidden * gradient, by_table * gradient, None
