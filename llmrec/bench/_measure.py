"""What the benchmarks share: interleaved timing, medians and their spread, the machine, the JSON file."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping

from tqdm import tqdm


def time_interleaved(
    systems: Mapping[str, Callable[[], object]], repeats: int, what: str
) -> dict[str, list[float]]:
    """Time systems in turn, so that what else the machine does meets them all; a first, uncounted round warms up.

    Returns:
        For each system, seconds of each repeat.
    """
    seconds: dict[str, list[float]] = {name: [] for name in systems}
    with tqdm(total=(repeats + 1) * len(systems), desc=what, leave=False) as bar:
        for repeat in range(repeats + 1):
            for name, work in systems.items():
                start = time.perf_counter()
                work()
                if repeat:
                    seconds[name].append(time.perf_counter() - start)
                bar.update()
    return seconds


def summary(seconds: Iterable[float]) -> dict[str, float]:
    """Median, least and most, in seconds."""
    values = list(seconds)
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def speedup(slow: list[float], fast: list[float]) -> dict[str, float]:
    """How many times faster: the median of the repeats' ratios, with the least and the most."""
    return {
        name: round(value, 2)
        for name, value in summary(s / f for s, f in zip(slow, fast, strict=True)).items()
    }
