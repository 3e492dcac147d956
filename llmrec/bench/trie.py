"""Benchmark the trie: one step against the usual Python mask loop, growth with the catalogue, building, opening."""

from __future__ import annotations

import functools
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.table import Table

from llmrec.bench._measure import speedup, summary, time_interleaved
from llmrec.catalogue.trie import Trie
from llmrec.report.figures import write_figures
from llmrec.report.screen import show

CODES, LEVELS, VOCABULARY = 256, 3, 151_936
TURN = 20
"""Number of consecutive steps of a system before the turn of the next one."""
OPEN = """
import sys, time
from pathlib import Path
import safetensors.torch, torch
from llmrec.catalogue.trie import Trie
start = time.perf_counter()
trie = Trie.open(Path(sys.argv[1]))
child, token, legal = trie.expand(torch.zeros((80, 1), dtype=torch.long), 0)
print(time.perf_counter() - start)
"""


def run(
    beams: int = 80,
    repeats: int = 20,
    items: int = 10_000,
    built: int = 1_000_000,
    opened: int = 10_000_000,
    out: Path | None = None,
) -> dict[str, Any]:
    """Measure the trie.

    Args:
        beams: number of prefixes of a step.
        repeats: number of turns of 20 steps; the turns of the systems are interleaved.
        items: size of the catalogue of the comparison; a catalogue 100 times larger shows the growth.
        built: size of the catalogue that is built.
        opened: size of the catalogue that is mapped from a file.
        out: JSON file for the figures; None writes nothing.

    Returns:
        `step`: seconds a step of trie and loop, and their ratio; `growth`: ratio of the step's time on the large
        catalogue to that on the small one; `build`: seconds and megabytes for 4-level IDs; `open`: seconds to map a
        file of 4-level IDs and take the first step, in a new process.
    """
    torch.manual_seed(0)
    figures = {
        "step": _step(beams, repeats, items),
        "growth": _growth(beams, repeats, items),
        "build": _build(built),
        "open": _open(opened),
    }
    _show(figures, beams)
    write_figures(out, "llmrec bench trie", figures, "torch", "numpy")
    return figures


def catalogue(items: int, levels: int, seed: int = 0) -> npt.NDArray[np.int32]:
    """Random semantic IDs `[items, levels]` of 256 codes a level, unique, in trie order."""
    rng = np.random.default_rng(seed)
    numbers = np.unique(rng.integers(0, CODES**levels, int(items * 1.02) + 100))
    numbers = np.sort(rng.choice(numbers, items, replace=False)) if len(numbers) > items else numbers
    powers = CODES ** np.arange(levels - 1, -1, -1)
    return (numbers[:, None] // powers % CODES).astype(np.int32)


def _prefixes(
    trie: Trie, sids: npt.NDArray[np.int32], beams: int
) -> tuple[torch.Tensor, npt.NDArray[np.int32]]:
    """Random prefixes of depth 2 as nodes [1, beams], and as codes."""
    chosen = sids[np.random.default_rng(1).choice(len(sids), beams)][:, :2]
    nodes = [trie.walk([a, CODES + b]) for a, b in chosen.tolist()]
    return torch.tensor([nodes]), chosen


def _in_turns(steps: Mapping[str, Callable[[], object]], repeats: int, what: str) -> dict[str, list[float]]:
    """Seconds a step; the systems take turns of `TURN` steps."""

    def turn(step: Callable[[], object]) -> Callable[[], None]:
        def run() -> None:
            for _ in range(TURN):
                step()

        return run

    seconds = time_interleaved({name: turn(step) for name, step in steps.items()}, repeats, what)
    return {name: [value / TURN for value in values] for name, values in seconds.items()}


def _step(beams: int, repeats: int, items: int) -> dict[str, Any]:
    """Compare the trie's step with a mask [beams, V] that is filled beam by beam, as in `generate`."""
    sids = catalogue(items, LEVELS)
    trie = Trie.build(sids, [CODES] * LEVELS)
    nodes, prefixes = _prefixes(trie, sids, beams)
    token_ids = torch.arange(LEVELS * CODES) + VOCABULARY - LEVELS * CODES
    table: dict[tuple[int, ...], list[int]] = {}
    for a, b, c in sids.tolist():
        table.setdefault((a, b), []).append(int(token_ids[2 * CODES + c]))
    paths = [tuple(path) for path in prefixes.tolist()]

    def step() -> tuple[torch.Tensor, torch.Tensor]:
        _, token, legal = trie.expand(nodes, 2)
        return token_ids[token], legal

    def loop() -> torch.Tensor:
        mask = torch.full((beams, VOCABULARY), -torch.inf)
        for beam, path in enumerate(paths):
            mask[beam, table[path]] = 0
        return mask

    seconds = _in_turns({"trie": step, "loop": loop}, repeats, "a step of the trie")
    return {name: summary(times) for name, times in seconds.items()} | {
        "times_faster": speedup(seconds["loop"], seconds["trie"])
    }


def _growth(beams: int, repeats: int, items: int) -> dict[str, Any]:
    """Time the last of 3 levels, on which the catalogue's size has the largest effect."""
    steps = {}
    for count in (items, 100 * items):
        sids = catalogue(count, LEVELS)
        trie = Trie.build(sids, [CODES] * LEVELS)
        nodes = _prefixes(trie, sids, beams)[0]
        steps[f"{count:,}"] = functools.partial(trie.expand, nodes, 2)
    seconds = _in_turns(steps, repeats, "a catalogue 100 times larger")
    small, large = seconds.values()
    return {name: summary(times) for name, times in seconds.items()} | {"times_slower": speedup(large, small)}


def _build(items: int, repeats: int = 5) -> dict[str, Any]:
    sids = catalogue(items, 4)
    seconds = time_interleaved({"build": lambda: Trie.build(sids, [CODES] * 4)}, repeats, "building")["build"]
    trie = Trie.build(sids, [CODES] * 4)
    arrays = (trie.first, trie.token, trie.low, trie.high)
    return {
        "items": items,
        "seconds": summary(seconds),
        "megabytes": round(sum(a.nbytes for a in arrays) / 1e6, 1),
    }


def _open(items: int, repeats: int = 5) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="llmrec-bench-") as folder:
        path = Path(folder) / "trie.safetensors"
        start = time.perf_counter()
        Trie.build(catalogue(items, 4), [CODES] * 4).save(path)
        built = time.perf_counter() - start
        command = [sys.executable, "-c", OPEN, str(path)]
        seconds = [
            float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            for _ in range(repeats)
        ]
        size = path.stat().st_size
    figures: dict[str, Any] = {
        "items": items,
        "made_in": round(built, 1),
        "megabytes": round(size / 1e6, 1),
        "seconds": summary(seconds),
    }
    return figures


def _show(figures: dict[str, Any], beams: int) -> None:
    table = Table(title=f"trie, {beams} beams, {CODES} codes a level")
    for heading in ("what", "figure", "goal"):
        table.add_column(heading, justify="left" if heading == "what" else "right")
    step, growth, build, opening = (figures[name] for name in ("step", "growth", "build", "open"))
    table.add_row("a step", f"{step['trie']['median'] * 1e6:.0f} µs", "")
    table.add_row(
        "faster than a mask filled beam by beam", f"{step['times_faster']['median']:.0f}x", "≥ 100x"
    )
    table.add_row(
        "slower on a catalogue 100 times larger", f"{growth['times_slower']['median']:.2f}x", "≤ 1.2x"
    )
    table.add_row(
        f"{build['items']:,} items × 4 levels built", f"{build['seconds']['median']:.2f} s", "≤ 2 s"
    )
    table.add_row("… and held in", f"{build['megabytes']:.0f} MB", "≤ 100 MB")
    table.add_row(
        f"{opening['items']:,} items mapped, first step", f"{opening['seconds']['median']:.3f} s", "< 1 s"
    )
    show(table)
