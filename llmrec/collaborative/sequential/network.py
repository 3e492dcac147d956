"""What training and ranking ask of a sequential model's network."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from llmrec.collaborative.sequential.dropout import keep_all

INITIAL_DEVIATION = 0.02
Drop = Callable[[torch.Tensor], torch.Tensor]
"""Dropout in training, or `keep_all`."""


class Network(nn.Module):
    """A network that reads a history, and predicts the next item at each of its positions.

    Rows are padded after their last item, so in a causal network no item sees padding.

    Attributes:
        items: the item vectors.
        start: input that stands before a history's first item; None without one.
        reads_times: whether `forward` is given times.
    """

    items: nn.Embedding
    start: int | None = None
    reads_times: bool = False

    def forward(
        self,
        items: torch.Tensor,
        lengths: torch.Tensor,
        drop: Drop = keep_all,
        times: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Compute the hidden state of each position, which predicts the next item.

        Args:
            items: int64 [B, T], oldest first, padded with any item; T is at most `history`.
            lengths: int64 [B], number of items in each row.
            drop: dropout in training; nothing is dropped without it.
            times: int64 [B, T], seconds; None where they are not known or not read.

        Returns:
            float32 [B, T, dim]; the score of an item is the product with its row of `table`.
        """
        raise NotImplementedError

    def table(self) -> torch.Tensor:
        """Return the output vectors of all items, float32 [items, dim]."""
        return self.items.weight


def initialise(module: nn.Module) -> None:
    """Draw a layer's weights from torch's generator: normal with deviation .02, biases 0."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=INITIAL_DEVIATION)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
