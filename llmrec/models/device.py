"""Copies to a model's device."""

from __future__ import annotations

import torch


def to_device(tensor: torch.Tensor, device: torch.device | str) -> torch.Tensor:
    """Copy a tensor from the host without waiting for what the device still has to do."""
    return tensor.to(device, non_blocking=True)
