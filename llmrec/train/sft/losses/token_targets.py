"""Cross-entropy over the vocabulary with targets in which a few tokens have a share.

    loss_i       = −Σ_t s_it log p_it = S_i log Σ_t exp(z_it) − Σ_t s_it z_it,     S_i = Σ_t s_it
    ∂loss_i/∂z_it = S_i p_it − s_it

z are the logits, p their softmax, and s the shares. Both are computed a few positions at a time, which a processor
keeps in its cache. Composed of PyTorch's operations, they would pass over arrays of the logits' size ten times, and
that was most of a step of a small model with a code for each item.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from llmrec.models.device import to_device

CACHED = 1 << 18
"""Number of logits that are computed at a time on a CPU: 1 MB."""


@dataclass(frozen=True)
class TokenTargets:
    """The shares of tokens in the targets of n positions; all others have none.

    Attributes:
        row: the position of each share, sorted, int64 [m].
        token: whose share it is, int64 [m]; none twice in a position, or its shares add up.
        share: float32 [m].
    """

    row: torch.Tensor
    token: torch.Tensor
    share: torch.Tensor

    @classmethod
    def of_labels(cls, labels: torch.Tensor) -> TokenTargets:
        """Targets that are one token each, `labels` int64 [n]."""
        return cls(
            torch.arange(len(labels), device=labels.device), labels, labels.new_ones(len(labels)).float()
        )

    @classmethod
    def joined(cls, parts: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]) -> TokenTargets:
        """Targets of several lists of shares: rows, tokens and shares of each."""
        row, token, share = (torch.cat(values) for values in zip(*parts, strict=True))
        order = row.argsort(stable=True)
        return cls(row[order], token[order], share[order])

    def to(self, device: torch.device) -> TokenTargets:
        """The same targets on a device."""
        moved: dict[str, Any] = {name: to_device(value, device) for name, value in vars(self).items()}
        return replace(self, **moved)

    def losses(self, logits: torch.Tensor) -> torch.Tensor:
        """Cross-entropy of each position, float32 [n], from logits [n, V]."""
        losses: torch.Tensor = _CrossEntropy.apply(  # type: ignore[no-untyped-call]  # torch does not type it
            logits, self.row, self.token, self.share
        )
        return losses


class _CrossEntropy(torch.autograd.Function):
    """The two equations of this module."""

    @staticmethod
    def forward(
        ctx: Any, logits: torch.Tensor, row: torch.Tensor, token: torch.Tensor, share: torch.Tensor
    ) -> torch.Tensor:
        """Losses of all positions, float32 [n]."""
        whole = torch.cat([part.float().logsumexp(1) for part in logits.split(_rows_at_a_time(logits))])
        total = torch.zeros_like(whole).index_add_(0, row, share)
        chosen = torch.zeros_like(whole).index_add_(0, row, share * logits[row, token].float())
        ctx.save_for_backward(logits, whole, total, row, token, share)
        return total * whole - chosen

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        """Gradients of the logits, [n, V] in their precision."""
        logits, whole, total, row, token, share = ctx.saved_tensors
        found = torch.empty_like(logits)
        of_total, of_share = gradient * total, gradient[row] * share
        for rows, shares in _parts(logits, row):
            part = (logits[rows].float().contiguous() - whole[rows, None]).exp_().mul_(of_total[rows, None])
            place = (row[shares] - rows.start) * logits.shape[1] + token[shares]
            part.view(-1).index_add_(0, place, of_share[shares], alpha=-1)
            found[rows] = part
        return found, None, None, None


def _rows_at_a_time(logits: torch.Tensor) -> int:
    """Number of rows that are computed together: on a GPU all of them."""
    return max(1, CACHED // max(1, logits.shape[1]) if logits.device.type == "cpu" else len(logits))


def _parts(logits: torch.Tensor, row: torch.Tensor) -> Iterator[tuple[slice, slice]]:
    """Slices of the rows that are computed together, and of the shares that belong to them."""
    size = _rows_at_a_time(logits)
    if size >= len(logits):
        yield slice(0, len(logits)), slice(0, len(row))
        return
    starts = range(0, len(logits), size)
    bounds = torch.searchsorted(row, torch.tensor([*starts, len(logits)])).tolist()
    for number, start in enumerate(starts):
        yield slice(start, start + size), slice(bounds[number], bounds[number + 1])
