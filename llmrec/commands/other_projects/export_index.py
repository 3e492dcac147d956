"""`llmrec export-index RUN FOLDER`: write a run's IDs in the files of other projects."""

from __future__ import annotations

from pathlib import Path

from llmrec.artifacts import find_run
from llmrec.ids import exchange


def run(run_name: str, folder: Path, name: str | None) -> None:
    """Write a run's `*.index.json`, `*.item.json` and `*.inter.json` into a folder, and print their paths."""
    run_folder = find_run(run_name)
    for path in exchange.export(run_folder, folder, name or run_folder.resolve().name):
        print(path)
