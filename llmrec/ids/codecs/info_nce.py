"""The contrastive loss that LETTER and CoST add to reconstruction."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

IGNORED = -1


def info_nce(anchors: Tensor, positives: Tensor, is_pair: Tensor | None = None) -> Tensor:
    """In-batch InfoNCE (van den Oord et al. 2018): −mean log softmax of each anchor's product with its positive.

    Args:
        anchors: `[n, d]`.
        positives: `[n, d]`; row i is the positive of anchor i, and the other rows are its negatives.
        is_pair: bool `[n]`, which rows count, as anchors and as negatives; None counts all. The loss of no row is 0.
    """
    targets = torch.arange(len(anchors), device=anchors.device)
    products = anchors @ positives.T
    if is_pair is None:
        return functional.cross_entropy(products, targets)
    # Rows stay where they are: to select them, the host would have to wait for the device. A row that does not count
    # sees itself, so that no row is without any value.
    sees = is_pair | (targets == targets[:, None])
    chosen = torch.where(is_pair, targets, IGNORED)
    masked = products.masked_fill(~sees, -torch.inf)
    total = functional.cross_entropy(masked, chosen, ignore_index=IGNORED, reduction="sum")
    return total / is_pair.sum().clamp(min=1)
