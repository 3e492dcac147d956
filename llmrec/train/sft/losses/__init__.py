"""Losses of SFT: what a batch's labels cost, by what each token is compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch

LossesOfLogits = Callable[["torch.Tensor", bool], "torch.Tensor"]
"""Losses of n labels, float32 [n], from a forward's logits; and whether it is training, in which a teacher counts."""


class Loss(Protocol):
    """What a trainer needs of a loss."""

    def head(
        self, model: torch.nn.Module, batch: Mapping[str, Any]
    ) -> AbstractContextManager[LossesOfLogits]:
        """Context in which the model's head scores what this loss reads of a batch; yields how it is read.

        Args:
            model: the (wrapped) model, its head at the labelled positions (`llmrec.models.layers.head`).
            batch: as `llmrec.train.sft.batches.TreeCollator` gives it, n labels in it.
        """
