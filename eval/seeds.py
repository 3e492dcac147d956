"""Several seeds of one recipe as one file of `eval/results/`: `python eval/seeds.py OUT COMMAND RUN RUN …`.

Each run's figures are those of `eval/evidence.py`. Of its metrics the file has the language model's and those of the
opponents in `SYSTEMS`, the differences, and the mean over the runs. The runs are told apart by their seeds.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

from evidence import evidence, kept

from llmrec.files import write_json
from llmrec.layout import run_folder

SYSTEMS = ("sft", "sasrec_ce", "item_knn", "mixture")
SPLITS = ("valid", "test")
ONCE = ("date", "machine", "versions")
EACH = ("stage_seconds", "peak_memory_mb", "sft_notes")


def together(command: str, runs: list[str], note: str | None) -> dict[str, Any]:
    """Figures of several runs and their means.

    Args:
        command: what a reader would type.
        runs: names of runs with different seeds.
        note: what else is to be known.
    """
    measured = {str(one["seed"]): one for name in runs if (one := evidence(run_folder(name), command))}
    assert len(measured) == len(runs), "two runs have the same seed"
    metrics = {seed: one["metrics"] for seed, one in measured.items()}
    each = {seed: _systems(one) for seed, one in metrics.items()}
    first = next(iter(measured.values()))
    return {
        "command": command,
        **({"note": note} if note else {}),
        **{name: first[name] for name in ONCE},
        "seeds": [one["seed"] for one in measured.values()],
        **{name: {seed: one[name] for seed, one in measured.items()} for name in EACH},
        "each_seed": each,
        "differences": {seed: one["differences"] for seed, one in metrics.items()},
        "mean": _mean(list(each.values())),
    }


def _systems(metrics: dict[str, Any]) -> dict[str, Any]:
    """Split → system → the metrics that are kept."""
    return {
        split: kept({system: metrics[split][system] for system in SYSTEMS if system in metrics[split]})
        for split in SPLITS
        if split in metrics
    }


def _mean(trees: list[dict[str, Any]]) -> dict[str, Any]:
    """A tree of numbers, each the mean of those at its place; intervals are left out."""
    return {
        key: _mean([tree[key] for tree in trees])
        if isinstance(value, dict)
        else round(statistics.mean(tree[key] for tree in trees), 6)
        for key, value in trees[0].items()
        if key not in ("intervals", "users")
    }


def main() -> None:
    """Read the arguments and write the file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("command")
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--note")
    options = parser.parse_args()
    write_json(options.out, together(options.command, options.runs, options.note))


if __name__ == "__main__":
    main()
