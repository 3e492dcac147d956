"""Copies to a model's device, and models on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def to_device(tensor: torch.Tensor, device: torch.device | str) -> torch.Tensor:
    """Copy a tensor from the host without waiting for what the device still has to do."""
    return tensor.to(device, non_blocking=True)


def move_model(model: PreTrainedModel, to: torch.device | torch.dtype | str) -> PreTrainedModel:
    """Move a model to a device, or convert its weights to a precision, in place."""
    module: torch.nn.Module = model  # a decorator hides the type of the model's own `to`
    module.to(to)
    return model
