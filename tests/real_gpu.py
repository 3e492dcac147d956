"""A real GPU in place of `simulated_device`: LLMREC_TEST_DEVICE=cuda pytest -n 0 tests/on_device.

The same names. Waits are those that torch reports itself (`torch.cuda.set_sync_debug_mode`), so the tests of the
budgets also say whether the simulation counts rightly. Copies from the host may be missing among them.
"""

from __future__ import annotations

import contextlib
import warnings

import torch
from simulated_device import explain, wait_at

DEVICE = "cuda:0"
SAME_DRAWS = False
"""Whether the device's generators draw what the CPU's draw."""
__all__ = ["DEVICE", "SAME_DRAWS", "explain", "generator", "switched_on"]


def generator(seed):
    """A random generator of the device."""
    return torch.Generator(DEVICE).manual_seed(seed)


@contextlib.contextmanager
def switched_on(dead_rows_are_nan=False):
    """Yields the list that waits are noted in; what attention gives to rows that see nothing is up to the kernels."""
    waits = []

    def note(message, *_, **__):
        if "synchronizing CUDA operation" in str(message):
            waits.append(wait_at("wait", "reported by torch"))

    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield waits
        finally:
            torch.cuda.set_sync_debug_mode(before)
