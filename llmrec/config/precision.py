"""Number formats in which models compute."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from llmrec.hardware import choose_device

if TYPE_CHECKING:
    import torch


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 matrices in hardware. Other CPUs are slower with it than in float32."""
    import torch

    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    features = torch.cpu.get_capabilities()
    return any(features.get(name) for name in ("amx_bf16", "avx512_bf16"))


def uses_bfloat16(wanted: bool | Literal["auto"]) -> bool:
    """Whether a training computes in bfloat16 on this machine, given the key `bf16` of its recipe section."""
    import torch

    if wanted != "auto":
        return wanted
    return has_fast_bfloat16(torch.device(choose_device()))
