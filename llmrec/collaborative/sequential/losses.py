"""Losses of sequential models.

Binary cross-entropy: Kang & McAuley, Self-attentive sequential recommendation, ICDM 2018. Cross-entropy over the
catalogue: Klenitskiy & Vasilev, Turning dross into gold loss: is BERT4Rec really better than SASRec?, RecSys 2023.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from llmrec.hardware import has_fast_bfloat16

CPU_TILE = 1 << 20
"""Number of scores that the cross-entropy holds at once: 4 MB, which fits in a core's cache."""
GPU_TILE = 1 << 26
"""The same on a GPU: 256 MB. Small tiles would leave it idle between thousands of short kernels."""


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
    grow with the batch. Where it is fast, matrices are multiplied in bfloat16, which halves the time again; sums,
    exponentials and results are float32, and the gradients differ by .3 %.
    """

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, table: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        by_hidden, by_table = torch.empty_like(hidden), torch.zeros_like(table)
        rows = max(1, (CPU_TILE if hidden.device.type == "cpu" else GPU_TILE) // len(table))
        kind = torch.bfloat16 if has_fast_bfloat16(hidden.device) else torch.float32
        factors, items = hidden.to(kind), table.to(kind)
        total = hidden.new_zeros(())
        for start in range(0, len(hidden), rows):
            tile = slice(start, start + rows)
            columns = targets[tile, None]
            scores = (factors[tile] @ items.T).float()
            highest = scores.amax(1, keepdim=True)
            total -= (scores.gather(1, columns) - highest).sum()
            exponentials = scores.sub_(highest).exp_()
            sums = exponentials.sum(1, keepdim=True)
            total += sums.log().sum()
            # Gradient with respect to the scores: softmax probabilities minus the one-hot target.
            errors = exponentials.div_(sums).scatter_add_(1, columns, -torch.ones_like(sums)).to(kind)
            by_hidden[tile] = errors @ items
            by_table += errors.T @ factors[tile]
        ctx.save_for_backward(by_hidden / len(hidden), by_table / len(hidden))
        return total / len(hidden)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        by_hidden, by_table = ctx.saved_tensors
        return by_hidden * gradient, by_table * gradient, None
