"""The contrastive loss that LETTER and CoST add to reconstruction."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def info_nce(anchors: Tensor, positives: Tensor) -> Tensor:
    """In-batch InfoNCE (van den Oord et al. 2018): −mean log softmax of each anchor's product with its positive.

    Args:
        anchors: `[n, d]`.
        positives: `[n, d]`; row i is the positive of anchor i, and the other rows are its negatives.
    """
    targets = torch.arange(len(anchors), device=anchors.device)
    return functional.cross_entropy(anchors @ positives.T, targets)
