"""Signatures and help texts of the commands that write or read files of other projects."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmrec.commands.arguments import RunName


def export_index(
    run: RunName,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder to write.")],
    name: Annotated[str | None, typer.Option(metavar="NAME", help="Default: the run's name.")] = None,
) -> None:
    """Write a run's IDs, items and histories for other projects. LC-Rec, LETTER and MiniOneRec read them."""
    from llmrec.commands.other_projects import export_index as command

    command.run(run, folder, name)


def import_index(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Folder with the files of one of these projects.")
    ],
    dest: Annotated[Path, typer.Argument(metavar="DEST", help="Folder for the card and the tables.")],
    name: Annotated[str | None, typer.Option(metavar="NAME", help="Which dataset of several.")] = None,
) -> None:
    """Make a dataset of another project's files. It reads those of LC-Rec, LETTER, MiniOneRec and OpenOneRec."""
    from llmrec.commands.other_projects import import_index as command

    command.run(folder, dest, name)
