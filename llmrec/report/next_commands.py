"""Commands that a reader of a result can paste, quoted for the shell."""

from __future__ import annotations

import shlex
from pathlib import Path

import polars as pl

from llmrec import layout


def recommend_command(run: Path, name: str, *options: str) -> str:
    """Return the command that recommends to the first evaluated user of a run.

    Args:
        run: an evaluated run.
        name: the run's name, or its folder, as the command names it.
        options: further options.
    """
    user = str(pl.scan_parquet(run / layout.PER_USER).select("user_id").first().collect().item())
    return shlex.join(["llmrec", "recommend", name, "--user", user, *options])


def evaluate_again_command(name: str, override: str) -> str:
    """Return the command that decodes and evaluates a finished run with another setting; its SFT stays as it is.

    Args:
        name: the run's name, or its folder, as the command names it.
        override: `key=value`.
    """
    return shlex.join(["llmrec", "report", name, override])


def train_again_command(run: Path, name: str, override: str) -> str:
    """Return the command that trains a run's recipe with another setting, as a new run that shares its data and IDs.

    Args:
        run: the run.
        name: its name, or its folder, as the command names it.
        override: `key=value`.
    """
    recipe, new = str(run / layout.RECIPE), f"{run.name}-2"
    return shlex.join(["llmrec", "run", recipe, override, f"run={new}", f"parent={name}"])
