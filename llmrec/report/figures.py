"""Files of measured figures: JSON with the command, the date, the seed, the machine and package versions."""

from __future__ import annotations

import platform
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from llmrec.files import write_json
from llmrec.hardware import describe_machine

FIXED_SEED = "fixed in the benchmark's code"
Seed = int | list[int] | str


def write_figures(
    out: Path | None, command: str, figures: Any, *packages: str, seed: Seed = FIXED_SEED
) -> None:
    """Write figures as JSON, behind what `describe_measurement` says of them.

    Args:
        out: the file; None writes nothing.
        command: the command that measured the figures.
        figures: JSON data.
        packages: packages whose versions are listed.
        seed: the seed or seeds that decided the figures.
    """
    if out is not None:
        write_json(out, describe_measurement(command, *packages, seed=seed) | {"figures": figures})


def describe_measurement(command: str, *packages: str, seed: Seed = FIXED_SEED) -> dict[str, Any]:
    """Return `command`, `date` (UTC), `seed` and `machine` of figures; the machine lists the versions of packages."""
    machine = {"platform": platform.platform(), "python": platform.python_version()} | describe_machine()
    machine["versions"] = {name: metadata.version(name) for name in ("llmrec", *packages)}
    date = datetime.now(UTC).date().isoformat()
    return {"command": command, "date": date, "seed": seed, "machine": machine}
