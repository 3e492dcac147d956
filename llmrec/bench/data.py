"""Benchmark the growth of the data stage: rows a second and peak memory on generated interactions."""

from __future__ import annotations

import json
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml
from rich.table import Table

from llmrec import config, pipeline
from llmrec.progress.bar import follow
from llmrec.report.figures import write_figures
from llmrec.report.screen import show

ROWS_PER_USER = 50
ROWS_PER_ITEM = 100
_CHUNK = 1_000_000


def run(
    sizes: Sequence[int] = (1_000_000, 10_000_000, 50_000_000), out: Path | None = None
) -> list[dict[str, Any]]:
    """Time the data stage on generated logs of increasing size, each in its own process.

    The log is an unsorted CSV with 50 interactions a user and 100 an item on average; items follow Zipf's law. The
    stage reads and sorts it, drops duplicates, takes the 5-core and makes a leave-one-out split.

    Args:
        sizes: numbers of interactions.
        out: JSON file for the figures; None writes nothing.

    Returns:
        Per size: `rows, seconds, rows_per_second, cpu_seconds, peak_mb`, and `rows_ratio, cpu_ratio,
        memory_ratio` to the size before. CPU seconds include all threads; other load on the machine hardly changes
        them.
    """
    figures: list[dict[str, Any]] = []
    for rows in sizes:
        with tempfile.TemporaryDirectory(prefix="llmrec-bench-") as folder:
            figure = _measure(rows, Path(folder))
        before = figures[-1] if figures else figure
        for ratio, key in (("rows_ratio", "rows"), ("cpu_ratio", "cpu_seconds"), ("memory_ratio", "peak_mb")):
            figure[ratio] = round(figure[key] / before[key], 2)
        figures.append(figure)
    _show(figures)
    write_figures(out, "llmrec bench data", figures, "polars", "numpy", "pyarrow")
    return figures


def generate(path: Path, rows: int, seed: int = 0) -> None:
    """Write a CSV of random interactions (`user,item,time`), a million rows at a time.

    Items follow Zipf's law with exponent 1, so the logarithm of an item's rank is uniform.
    """
    rng = np.random.default_rng(seed)
    users, items = max(1, rows // ROWS_PER_USER), max(2, rows // ROWS_PER_ITEM)
    with path.open("wb") as file:
        for start in follow(range(0, rows, _CHUNK), f"generating {rows:,} rows", "block"):
            size = min(_CHUNK, rows - start)
            chunk = {
                "user": rng.integers(0, users, size),
                "item": np.exp(rng.random(size) * np.log(items)).astype(np.int64),
                "time": 1_300_000_000 + rng.integers(0, 300_000_000, size),
            }
            pl.DataFrame(chunk).write_csv(file, include_header=start == 0)


def _measure(rows: int, folder: Path) -> dict[str, Any]:
    generate(folder / "log.csv", rows)
    card = {
        "interactions": {"path": "log.csv", "columns": {"user": "user", "item": "item", "time": "time"}},
        "filters": {"min_user": 5, "min_item": 5},
    }
    (folder / "card.yaml").write_text(yaml.safe_dump(card), "utf-8")
    recipe = {"data": {"card": str(folder / "card.yaml")}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe), "utf-8")
    command = [sys.executable, "-m", "llmrec.bench.data", str(folder / "recipe.yaml"), str(folder / "run")]
    measured = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout)
    seconds = measured["seconds"]
    return {"rows": rows, "seconds": seconds, "rows_per_second": round(rows / seconds)} | measured


def _stage(recipe: Path, run_folder: Path) -> dict[str, Any]:
    """Run the data stage in this process; return its time and peak memory."""
    start = time.monotonic()
    pipeline.execute(config.load_recipe(str(recipe)), run_folder, until="data")
    seconds = time.monotonic() - start
    return {"seconds": round(seconds, 2), "cpu_seconds": round(time.process_time(), 2), "peak_mb": _peak_mb()}


def _peak_mb() -> int:
    """Peak resident memory of this process in MB; getrusage would include that of the parent at the fork."""
    status = Path("/proc/self/status")
    if status.is_file():
        match = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
        if match:
            return int(match[1]) // 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def _show(figures: list[dict[str, Any]]) -> None:
    table = Table(title="data stage: CSV in, Parquet out (ratios to the row above)")
    for heading in ("rows", "seconds", "rows/s", "CPU s", "peak MB", "× rows", "× CPU s", "× memory"):
        table.add_column(heading, justify="right")
    for figure in figures:
        numbers = [f"{figure['rows']:,}", f"{figure['seconds']:.1f}", f"{figure['rows_per_second']:,}"]
        numbers += [f"{figure['cpu_seconds']:.1f}", f"{figure['peak_mb']:,}"]
        ratios = (f"{figure[key]:.2f}" for key in ("rows_ratio", "cpu_ratio", "memory_ratio"))
        table.add_row(*numbers, *ratios)
    show(table)


if __name__ == "__main__":
    print(json.dumps(_stage(Path(sys.argv[1]), Path(sys.argv[2]))))
