"""Which device and attention models use, and copies to it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

ATTENTION = "sdpa"
"""The one implementation of attention that takes token trees' masks; a base may name another in its config.json."""


def to_device(tensor: torch.Tensor, device: torch.device | str) -> torch.Tensor:
    """Copy a tensor from the host without waiting for what the device still has to do."""
    return tensor.to(device, non_blocking=True)


def leave_out_cudnn_attention() -> None:
    """Keep torch from cuDNN's attention, its default for masks in bfloat16 on recent GPUs.

    It was reported to give NaN gradients at some lengths (pytorch #196678) and wrong results with few key-value heads
    (#193893), and it plans anew for every shape. On a CPU this changes nothing.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)


@contextlib.contextmanager
def every_position_sees_something() -> Iterator[None]:
    """Let pads in the masks that transformers makes see all positions instead of none.

    A position that sees nothing would be left to the kernel: some give 0, some NaN, which then spreads over the row.
    What tokens see is not changed.
    """
    from transformers import masking_utils

    masks: Any = masking_utils.ALL_MASK_ATTENTION_FUNCTIONS
    make = masks[ATTENTION]

    def mask(*args: Any, **kwargs: Any) -> torch.Tensor | None:
        made: torch.Tensor | None = make(*args, **kwargs)
        return None if made is None else made | ~made.any(-1, keepdim=True)

    masks[ATTENTION] = mask
    try:
        yield
    finally:
        del masks[ATTENTION]
