"""How fast this machine multiplies matrices."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from functools import cache

import numpy as np


@cache
def matmul_rate() -> float:
    """FLOP/s of a matrix product, float32 on the CPU or bfloat16 on a GPU; takes a fraction of a second."""
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
