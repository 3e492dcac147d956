"""Train every system of a file on its data sets, and put all into one table.

    python eval/leaderboard.py eval/leaderboard.yaml DATASET out.json [key=value …]

Each data set is a run: its recipe and keys stand in the file. The stage collaborative, or the one that `stage` names,
chooses all settings on validation users; then the test split is looked at once. A run that was finished before is
only measured. The file that is written has, for each system, metrics with intervals, the difference to SASRec (paired
by user), processor seconds of the choice and the training, and the number of learned numbers.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import yaml

from llmrec import layout
from llmrec.cli import main as llmrec
from llmrec.files import read_json
from llmrec.report.figures import describe_measurement

sys.path.insert(0, str(Path(__file__).parent))
from opponents import measure

LIBRARIES = (
    "torch",
    "numpy",
    "scipy",
    "polars",
    "transformers",
    "cornac",
    "implicit",
    "sentence-transformers",
)


def train(entry: dict[str, Any], given: list[str]) -> Path:
    """Run the stage that trains a data set's systems, and return the run's folder.

    Args:
        entry: the data set's entry in the file.
        given: further recipe keys, such as where the data are on this machine.
    """
    systems = ", ".join(entry["systems"])
    keys = [f"run={entry['run']}", f"eval.baselines=[{systems}]", *entry.get("keys", []), *given]
    status = llmrec([entry.get("stage", "collaborative"), entry["recipe"], *keys])
    if status:
        raise SystemExit(status)
    return layout.run_folder(entry["run"])


def table(systems: dict[str, Any]) -> str:
    """Return the systems as lines of a Markdown table, the best first."""
    lines = []
    for name, row in sorted(systems.items(), key=lambda pair: -pair[1]["ndcg@10"]):
        interval = ", ".join(f"{value:.4f}" for value in row["intervals"]["ndcg@10"])
        learned = f"{row['parameters']:,}" if row["parameters"] else "–"
        seconds = f"{row['cpu_seconds']:.0f}" if row["cpu_seconds"] is not None else "–"
        cells = [f"`{name}`", f"{row['ndcg@10']:.4f} [{interval}]", f"{row['hr@10']:.4f}", seconds, learned]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Train and measure one data set of a file."""
    file, dataset, out, *given = sys.argv[1:]
    entry = yaml.safe_load(Path(file).read_text("utf-8"))[dataset]
    run = train(entry, given)
    measured = measure(run, "test", entry["systems"])
    command = f"python eval/leaderboard.py {file} {dataset} {out}"
    found = describe_measurement(command, *LIBRARIES, seed=measured["seed"]) | {
        "split": "test",
        "recipe": entry["recipe"],
        "keys": entry.get("keys", []),
        **measured,
    }
    found.pop("collaborative_seconds")  # of the last start alone; each system has its own
    for name, row in found["systems"].items():
        path = run / layout.system_file(name, ".json")
        if path.is_file():
            row["validation"]["tried"] = read_json(path)["tried"]
    Path(out).write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", "utf-8")
    print(table(found["systems"]))


if __name__ == "__main__":
    main()
