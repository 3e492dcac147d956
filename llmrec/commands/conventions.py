"""What commands have in common: arguments, the help page, which lists them in groups, and exit codes."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

from llmrec import artifacts
from llmrec.errors import UserError
from llmrec.files import DISK_FULL, disk_is_full
from llmrec.plugins import place_in_own_code

RecipeName = Annotated[str, typer.Argument(metavar="RECIPE", help="A shipped recipe's name, or a path.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Override any key: sft.lr=1e-4; run=NAME names the run."),
]
Processes = Annotated[
    int,
    typer.Option(min=1, help="Number of training processes (data parallel): one per GPU, or on CPU cores."),
]
Shard = Annotated[
    bool,
    typer.Option("--shard", help="Each process holds a part of the weights (FSDP2), not all of them."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan and its cost; write nothing.")]
RunOrRecipe = Annotated[
    str,
    typer.Argument(metavar="RUN|RECIPE", help="A finished run, whose own recipe then holds; or a recipe."),
]
RunName = Annotated[str, typer.Argument(metavar="RUN", help="A run's name, or its folder.")]
ModelName = Annotated[
    str | None, typer.Option(metavar="sft|dpo|grpo|base", help="Default: the run's best model.")
]
Dest = Annotated[Path, typer.Argument(metavar="DEST", help="The folder to write.")]
Replace = Annotated[bool, typer.Option("--force", help="Replace an earlier output in this folder.")]
Overwrite = Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")]
ShippedFile = Annotated[str, typer.Argument(metavar="NAME")]

GROUPS = {
    "Start": ("run", "init", "doctor", "ls", "cat", "cp"),
    "Look before training": ("validate", "preview"),
    "Experiments": ("compare", "sweep", "simulate", "bench"),
    "With a finished run": ("recommend", "serve", "items", "merge", "export"),
    "Other projects' files": ("export-index", "import-index"),
}
"""Heading of the help page → commands below it."""
STAGES = "Single stages"
"""Heading of all other commands."""

NOT_WRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS}
"""Numbers of errors that say that a folder cannot be written."""


class GroupedCommands(TyperGroup):
    """The commands, which the help page lists under the headings of `GROUPS`."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the sections of commands into a help page."""
        grouped = {name for names in GROUPS.values() for name in names}
        others = tuple(name for name in self.list_commands(ctx) if name not in grouped)
        start, *later = GROUPS.items()
        width = max(map(len, self.list_commands(ctx)))
        for heading, names in (start, (STAGES, others), *later):
            rows = []
            for name in names:
                command = self.get_command(ctx, name)
                if command is not None and not command.hidden:
                    rows.append((name.ljust(width), command.get_short_help_str(formatter.width - 6 - width)))
            with formatter.section(heading):
                formatter.write_dl(rows)


def explain_error(error: Exception) -> tuple[int, str]:
    """Return the exit code (2 a mistake of the user, 1 of llmrec) and the one-line message for an exception."""
    if isinstance(error, TyperException):
        return error.exit_code, f"{_usage(error)} (llmrec --help)"
    if isinstance(error, UserError):
        return 2, str(error)
    if disk_is_full(error):
        return 2, DISK_FULL
    if isinstance(error, OSError) and error.errno in NOT_WRITABLE:
        return 2, f"{error.filename}: {error.strerror}; set LLMREC_RUNS or LLMREC_HOME to another folder"
    if (place := place_in_own_code(error)) is not None:
        return 2, f"{place}: {type(error).__name__}: {error} (your own code; traceback: llmrec --debug …)"
    if (fault := artifacts.changed_file()) is not None:
        return 2, fault
    if isinstance(error, OSError) and error.filename is not None:
        return 2, f"{error.filename}: {error.strerror}; give another path"
    return 1, f"internal error: {type(error).__name__}: {error} (traceback: llmrec --debug …)"


def _usage(error: TyperException) -> str:
    """Return what is wrong with the arguments; Typer quotes pydantic where a value is of the wrong kind."""
    from pydantic import ValidationError

    if isinstance(error.__cause__, ValidationError):
        from llmrec.config.section import explain

        error.message = "; ".join(explain(lambda *_: [], None, error.__cause__.errors()))
    return error.format_message()
