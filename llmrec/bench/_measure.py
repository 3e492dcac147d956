"""Shared by the benchmarks: interleaved timing, medians and ranges."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping

from tqdm import tqdm


def time_interleaved(
    systems: Mapping[str, Callable[[], object]], repeats: int, what: str
) -> dict[str, list[float]]:
    """Time the systems in turn, so that other load on the machine affects them equally.

    The first, uncounted round is the warm-up.

    Args:
        systems: name → function to time.
        repeats: number of counted rounds.
        what: label of the progress bar.

    Returns:
        For each system, seconds of each repeat.
    """
    seconds: dict[str, list[float]] = {name: [] for name in systems}
    with tqdm(total=(repeats + 1) * len(systems), desc=what, leave=False, disable=None) as bar:
        for repeat in range(repeats + 1):
            for name, work in systems.items():
                start = time.perf_counter()
                work()
                if repeat:
                    seconds[name].append(time.perf_counter() - start)
                bar.update()
    return seconds


def summary(seconds: Iterable[float]) -> dict[str, float]:
    """Median, minimum and maximum."""
    values = list(seconds)
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def speedup(slow: list[float], fast: list[float]) -> dict[str, float]:
    """Ratio of the times of two systems: median, minimum and maximum over the repeats."""
    return {
        name: round(value, 2)
        for name, value in summary(a / b for a, b in zip(slow, fast, strict=True)).items()
    }
