"""Signatures and help texts of the commands to start with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmrec.commands.arguments import (
    DryRun,
    Overrides,
    Overwrite,
    Processes,
    RecipeName,
    Shard,
    ShippedFile,
)
from llmrec.pipeline import NAMES


def run(
    recipe: RecipeName,
    overrides: Overrides = None,
    until: Annotated[
        str, typer.Option(metavar="STAGE", help=f"The last stage to run: {', '.join(NAMES)}.")
    ] = "report",
    dry_run: DryRun = False,
    processes: Processes = 1,
    shard: Shard = False,
) -> None:
    """Run a recipe's stages; skip those that are done."""
    from llmrec.commands.stages import run as command

    command.run(recipe, overrides or [], until, dry_run, processes, shard)


def init(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Your files: CSV, JSON lines or Parquet.")],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.yaml", help="The card. Default: the folder's name.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Ask nothing: take the best guess and say so.")] = False,
    force: Overwrite = False,
) -> None:
    """Look at your files, and write a card for them. It shows rows as they are understood."""
    from llmrec.commands.start import init as command

    command.run(folder, out, yes, force)


def doctor() -> None:
    """Check the installation; print each problem and its remedy."""
    from llmrec.commands.start import doctor as command

    command.run()


def ls(
    kind: Annotated[str | None, typer.Argument(metavar="[recipes|prompts|cards|suites]")] = None,
) -> None:
    """List the shipped recipes, prompts, cards and suites."""
    from llmrec.commands.start import shipped

    shipped.ls(kind)


def cat(name: ShippedFile) -> None:
    """Print a shipped file. Write KIND/NAME if the name is ambiguous."""
    from llmrec.commands.start import shipped

    shipped.cat(name)


def cp(
    name: ShippedFile, dest: Annotated[Path, typer.Argument(metavar="DEST")], force: Overwrite = False
) -> None:
    """Copy a shipped file, so that you can edit it."""
    from llmrec.commands.start import shipped

    shipped.cp(name, dest, force)
