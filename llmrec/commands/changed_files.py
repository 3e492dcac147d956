"""Finds the file of a run that is no longer as its stage wrote it, for a message when something has failed."""

from __future__ import annotations

from pathlib import Path

from llmrec.artifacts import opened_runs
from llmrec.assets import file_sha256
from llmrec.errors import UserError
from llmrec.files import read_json


def changed_file() -> str | None:
    """Name a file that is no longer as its stage wrote it, in the runs that this process has opened; None if none is.

    Whatever reads such a file may fail in any way, so this is asked when something has failed.
    """
    manifests = (path for run in opened_runs for path in sorted(run.glob("*/manifest.json")))
    return next(filter(None, map(_changed, manifests)), None)


def _changed(path: Path) -> str | None:
    """Name the first file of a manifest that is missing or another than the stage wrote."""
    run, stage = path.parents[1], path.parent.name
    again = f"run the stage {stage} again"
    try:
        manifest = read_json(path)
        outputs, sizes = dict(manifest["outputs"]), dict(manifest["sizes"])
        names = sorted(outputs, key=lambda name: int(sizes[name]))
    except (UserError, LookupError, TypeError, ValueError):
        return f"{path}: no manifest that can be read; remove it, and {again}"
    for name in names:
        file = run / name
        if not file.is_file():
            return f"{file}: missing; {again}"
        if file.stat().st_size != sizes[name] or file_sha256(file) != outputs[name]:
            return f"{file}: not as the stage {stage} wrote it; {again}"
    return None
