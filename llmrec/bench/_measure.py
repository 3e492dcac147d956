"""What the benchmarks share: interleaved timing, medians and their spread, the machine, the JSON file."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
from tqdm import tqdm

from llmrec import artifacts


def interleave(
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


def ratio(slow: list[float], fast: list[float]) -> dict[str, float]:
    """How many times faster: the median of the repeats' ratios, with the least and the most."""
    return {
        name: round(value, 2)
        for name, value in summary(s / f for s, f in zip(slow, fast, strict=True)).items()
    }


def machine(*packages: str) -> dict[str, Any]:
    """What the figures were measured on, and the versions of packages."""
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


def write(out: Path | None, command: str, figures: Any, *packages: str) -> None:
    """Keep figures as JSON with their command, the machine and the versions."""
    if out is not None:
        content = {"command": command, "machine": machine(*packages), "figures": figures}
        artifacts.write_json(out, content)
