"""What a machine is, for records of figures; where, in which precision and in which pages models compute."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch

GB = 1e9
"""Bytes of what is called GB in recipes, options, messages and files."""
CPU_BATCH_GB, GPU_BATCH_GB = 1.0, 8.0
"""Most memory of a batch without `decode.memory_gb`: a larger batch makes a CPU no faster, and a GPU's kernels count
a tensor's elements in 32 bits."""


def cpu_name() -> str:
    """Return the name of the processor, or of its architecture if the system does not tell more."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name" and value.strip():
                return " ".join(value.split())
    return platform.processor() or platform.machine()


def core_count() -> int:
    """Return the number of cores (of hardware threads) that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def choose_device() -> str:
    """Return torch's name of a GPU if there is one, else of the CPU."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def describe_machine() -> dict[str, Any]:
    """Return `cpu`, `cores` that may be used, `memory_gb`, and `gpu` if torch is loaded and sees one."""
    import psutil  # not at start-up: every command imports this module

    about: dict[str, Any] = {
        "cpu": cpu_name(),
        "cores": core_count(),
        "memory_gb": round(psutil.virtual_memory().total / GB, 1),
    }
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        about["gpu"] = torch.cuda.get_device_name()
    return about


LARGE_PAGES = "THP_MEM_ALLOC_ENABLE"
"""Variable that torch reads once, at its first tensor on a CPU."""


def use_large_pages() -> None:
    """Let torch ask Linux for pages of 2 MB for large tensors on a CPU; call it before torch is imported.

    The C library returns a large freed tensor to the kernel, which clears its pages again for the next one. With
    pages of 4 KB that is a tenth of an SFT step of a model with 135 M parameters
    (`eval/results/large-pages.json`). Results do not change. The user's environment has priority.
    """
    os.environ.setdefault(LARGE_PAGES, "1")


def return_free_memory() -> None:
    """Return what the process has freed to the kernel, under glibc; other C libraries do so by themselves.

    glibc reuses freed blocks badly where their sizes differ and they are aligned, as those of tensors: an SFT of
    SmolLM2 on Amazon Beauty grew to 11.8 GB, of which 8.1 GB were free.
    """
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


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


def choose_precision(
    wanted: Literal["float32", "bfloat16", "auto"] | None,
) -> Literal["float32", "bfloat16"] | None:
    """Return what a model computes in here, given the key `dtype`; None for what its weights are saved in."""
    if wanted != "auto":
        return wanted
    return "bfloat16" if uses_bfloat16("auto") else "float32"
