"""`llmrec import-index FOLDER DEST`: make a dataset of another project's files."""

from __future__ import annotations

import shlex
from pathlib import Path

from llmrec.ids import moving


def run(folder: Path, dest: Path, name: str | None) -> None:
    """Convert a folder of another project's files to a dataset, and print how to run it."""
    card, index = moving.import_folder(folder, dest, name)
    words = ["llmrec", "run", "RECIPE", f"data.card={card}"]
    if index is not None:
        words.append(f"ids.quantizer={{kind: index, path: {index}}}")
    print(f"{card}\ntry:    {shlex.join(words)}")
