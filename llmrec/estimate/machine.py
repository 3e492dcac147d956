"""The machine: its matrix-multiplication rate, and files of measured figures that describe it."""

from __future__ import annotations

import os
import platform
import shutil
import time
from collections.abc import Callable
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from llmrec.files import write_json


@cache
def matmul_rate() -> float:
    """Measure the FLOP/s of a matrix product, float32 on the CPU or bfloat16 on a GPU, in a fraction of a second."""
    if shutil.which("nvidia-smi"):
        import torch

        if torch.cuda.is_available():
            on_gpu = torch.randn(4096, 4096, dtype=torch.bfloat16, device="cuda")
            return _rate(lambda: (on_gpu @ on_gpu)[0, 0].item(), 4096)
    on_cpu = np.random.default_rng(0).standard_normal((512, 512), dtype=np.float32)
    return _rate(lambda: on_cpu @ on_cpu, 512)


def _rate(product: Callable[[], object], side: int) -> float:
    seconds = []
    for _ in range(40):
        start = time.perf_counter()
        product()
        seconds.append(time.perf_counter() - start)
    return 2.0 * side**3 / min(seconds)


def machine(*packages: str) -> dict[str, Any]:
    """Describe the machine, and list the versions of llmrec and of `packages`."""
    about = {
        "platform": platform.platform(),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "versions": {name: metadata.version(name) for name in ("llmrec", *packages)},
    }
    import torch

    if torch.cuda.is_available():
        about["gpu"] = torch.cuda.get_device_name()
    return about


def write_figures(out: Path | None, command: str, figures: Any, *packages: str) -> None:
    """Write figures as JSON, with their command, the machine and package versions.

    Args:
        out: the file; None writes nothing.
        command: the command that measured the figures.
        figures: JSON data.
        packages: packages whose versions are listed.
    """
    if out is not None:
        content = {"command": command, "machine": machine(*packages), "figures": figures}
        write_json(out, content)
