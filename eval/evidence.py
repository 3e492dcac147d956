"""Write what a run measured as a file of `eval/results/`: `python eval/evidence.py RUN OUT COMMAND [--note TEXT]`.

The run's machine, versions, seed and date come from its manifests; COMMAND is what a reader would type. Of slices and
differences only the metrics in `KEPT` are written.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from llmrec.artifacts import read_manifest
from llmrec.config import load_run_recipe
from llmrec.files import read_json, write_json
from llmrec.layout import run_folder

KEPT = ("hr@10", "ndcg@10", "users", "intervals")
STAGES = ("data", "collaborative", "ids", "sft", "pairs", "dpo", "grpo", "decode", "tasks", "eval", "report")


def evidence(run: Path, command: str, note: str | None = None) -> dict[str, Any]:
    """Command, date, machine, versions, seed, seconds and memory of each stage, curve and metrics of a run."""
    recipe = load_run_recipe(run)
    manifests = {stage: found for stage in STAGES if (found := read_manifest(run, stage)) is not None}
    trained = manifests["sft"]
    curve = [json.loads(line) for line in (run / "sft/metrics.jsonl").read_text().splitlines()]
    metrics = read_json(run / "eval/metrics.json")
    metrics["protocol"].pop("formulas")
    for part in ("differences", "slices"):
        metrics[part] = kept(metrics[part])
    tasks, gate = run / "eval/tasks.json", run / "eval/gate.json"
    return {
        "command": command,
        **({"note": note} if note else {}),
        "date": trained["finished"][:10],
        "machine": trained["machine"],
        "versions": trained["versions"],
        "seed": recipe.seed,
        "stage_seconds": {stage: manifest["seconds"] for stage, manifest in manifests.items()},
        "peak_memory_mb": {stage: manifest["peak_memory_mb"] for stage, manifest in manifests.items()},
        "sft_notes": trained["notes"],
        "decode": {"engine": recipe.decode.engine, "width": recipe.decode.width, "k": recipe.eval.k},
        "curve": [line for line in curve if "valid_loss" in line],
        "metrics": metrics,
        **({"tasks": read_json(tasks)} if tasks.is_file() else {}),
        **({"gate": read_json(gate)} if gate.is_file() else {}),
    }


def kept(tree: dict[str, Any]) -> dict[str, Any]:
    """A tree of metrics without those that are not kept."""
    if "ndcg@10" not in tree:
        return {key: kept(value) for key, value in tree.items()}
    return {
        key: {name: value[name] for name in KEPT if name in value} if key == "intervals" else value
        for key, value in tree.items()
        if key in KEPT
    }


def main() -> None:
    """Read the arguments and write the file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run")
    parser.add_argument("out", type=Path)
    parser.add_argument("command")
    parser.add_argument("--note")
    options = parser.parse_args()
    write_json(options.out, evidence(run_folder(options.run), options.command, options.note))


if __name__ == "__main__":
    main()
