"""The machine: its matrix-multiplication rate, and the memory that a training fills."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

import numpy as np
import psutil
from threadpoolctl import threadpool_info, threadpool_limits

from llmrec.hardware import GB, choose_device, core_count

Precision = Literal["float32", "bfloat16"]
SIDE, GPU_SIDE = 512, 4096
BURSTS, PRODUCTS, PAUSE = 3, 10, 0.1
LOOKED_AT = 0.3
"""Seconds during which the use of the processors is observed."""
BUSY = 0.2
"""Share of the processors that other programs use on a machine that is called busy."""


@dataclass(frozen=True)
class Speed:
    """What a machine computes, and how much of it others use.

    Attributes:
        flops: FLOP/s of a matrix product on the idle machine: on all cores, or on a GPU.
        used_by_others: share of the processors that other programs used just before, 0 to 1; 0 on a GPU.
    """

    flops: float
    used_by_others: float


def machine_speed(precision: Precision = "float32") -> Speed:
    """Measure the machine in about a second, once for a precision; bfloat16 may be ten times as fast as float32."""
    if has_gpu():
        return Speed(_gpu_rate(precision), 0.0)
    speed = _cpu_speed()
    return speed if precision == "float32" else replace(speed, flops=_cpu_bfloat16_rate())


@cache
def _cpu_speed() -> Speed:
    """The speed of this machine's processors, and how busy they are.

    Load falsifies wall-clock times: a product of two threads waits for the slower one. So one thread is timed by its
    own CPU clock, which stands still while others run, in the best of several short bursts. The rate is multiplied by
    the number of cores. Where the library of matrix products cannot be limited to a thread (Apple's), the wall clock
    is read.
    """
    used = psutil.cpu_percent(interval=LOOKED_AT) / 100
    matrix = np.random.default_rng(0).standard_normal((SIDE, SIDE), dtype=np.float32)
    if not any(library["user_api"] == "blas" for library in threadpool_info()):
        return Speed(_rate(lambda: matrix @ matrix, SIDE, time.perf_counter), used)
    with threadpool_limits(1, user_api="blas"):
        one = _rate(lambda: matrix @ matrix, SIDE, time.thread_time)
    return Speed(one * thread_count(), used)


def thread_count() -> int:
    """Number of threads that torch would use: `OMP_NUM_THREADS`, or the physical cores that this process may use."""
    asked = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    if asked.isdecimal() and int(asked):
        return int(asked)
    allowed = core_count()
    return min(allowed, psutil.cpu_count(logical=False) or allowed)


def memory_of_training() -> tuple[float, str]:
    """Memory, in GB, of what a training fills, and what that is: the GPU or this machine."""
    if has_gpu():
        import torch

        return torch.cuda.mem_get_info()[1] / GB, "the GPU"
    return psutil.virtual_memory().total / GB, "this machine"


def matmul_rate(precision: Precision = "float32") -> float:
    """FLOP/s of a matrix product on the idle machine; see `machine_speed`."""
    return machine_speed(precision).flops


@cache
def _cpu_bfloat16_rate() -> float:
    """FLOP/s of a bfloat16 product on all cores, measured as float32 is; NumPy has no such products."""
    import torch

    matrix = torch.randn(SIDE, SIDE, dtype=torch.bfloat16)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _rate(lambda: matrix @ matrix, SIDE, time.thread_time) * thread_count()
    finally:
        torch.set_num_threads(before)


def has_gpu() -> bool:
    """Whether torch sees a GPU; without NVIDIA's driver torch is not loaded to find out."""
    return bool(shutil.which("nvidia-smi")) and choose_device() == "cuda"


@cache
def _gpu_rate(dtype: str) -> float:
    """FLOP/s of a product of large matrices on the GPU."""
    import torch

    factor = torch.randn(GPU_SIDE, GPU_SIDE, dtype=getattr(torch, dtype), device="cuda")
    return _rate(lambda: (factor @ factor)[0, 0].item(), GPU_SIDE, time.perf_counter)


def _rate(product: Callable[[], object], side: int, clock: Callable[[], float]) -> float:
    """FLOP/s of the fastest product of several bursts with pauses between them."""
    seconds = []
    for burst in range(BURSTS):
        if burst:
            time.sleep(PAUSE)
        for _ in range(PRODUCTS):
            start = clock()
            product()
            seconds.append(clock() - start)
    return 2.0 * side**3 / min(seconds)
